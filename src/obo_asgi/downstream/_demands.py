"""What a downstream API demands of the user, and the one try to meet it without the user."""

from __future__ import annotations

from typing import Any

from .._http import CHALLENGE
from ..challenges import parse_challenge
from ..config import DownstreamAPI
from ..errors import AssertionRejectedError, InteractionRequiredError
from ..interaction import merge_interactions
from ..tokens import AccessToken
from ._caller import Caller

__all__ = ["drop_refused", "find_demand", "meet_claims"]


def find_demand(response: Any, caller: Caller) -> InteractionRequiredError | None:
    """Return the challenge of a response, ready for our own caller; the response remembers it.

    Pages that are not the sign-in service's own are left out: an API could send users anywhere.
    What is demanded of the app itself is not remembered: nobody who calls it can meet that.
    """
    challenge = parse_challenge(response)
    if challenge is None or not challenge.interaction_required:
        return None
    demand = challenge.to_error()
    if not caller.trusts(demand.authorization_uri):
        demand.authorization_uri = None
    if not caller.trusts(demand.consent_uri):
        demand.consent_uri = None
    extensions = getattr(response, "extensions", None)
    if isinstance(extensions, dict) and not caller.is_app:
        extensions[CHALLENGE] = demand
    return demand


def drop_refused(
    caller: Caller,
    api: DownstreamAPI,
    scopes: tuple[str, ...],
    token: AccessToken,
    demand: InteractionRequiredError | None,
    *,
    claims: str | None = None,
) -> bool:
    """Forget a token whose claims did not suffice; tell whether that is what an API says.

    Args:
        caller: whose token.
        api: the API that the demand is of.
        scopes: what the token is for.
        token: what was sent.
        demand: what came back.
        claims: the claims challenge that the token was exchanged for.
    """
    if demand is None or not demand.claims_challenge:
        return False
    caller.forget_token(api, scopes, claims, token)
    return True


async def meet_claims(
    caller: Caller, api: DownstreamAPI, scopes: tuple[str, ...], demand: InteractionRequiredError
) -> AccessToken:
    """Exchange again with the claims that an API demands (continuous access evaluation).

    Raises:
        InteractionRequiredError: only the user can meet them: the API's demand, with what Entra
            demands besides.
        TokenAcquisitionError: no token, for another reason.
    """
    try:
        return await caller.acquire_token(api, scopes, claims=demand.claims_challenge)
    except InteractionRequiredError as error:
        failure = merge_interactions([demand, error])
    except AssertionRejectedError:
        failure = demand
    raise failure
