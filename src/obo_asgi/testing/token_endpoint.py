"""The token endpoint: four grants, each checked as Entra checks it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from ._asgi import Request, Response, json_response
from .aadsts import EntraError
from .assertion import check_assertion, peek_user
from .claims_request import parse_claims
from .client_authentication import authenticate_client, peek_assertion_id
from .directory import App
from .issue import issue_for_app, issue_for_user
from .keys import encode_base64url
from .ledger import TokenRequest
from .scopes import parse_scope
from .world import World

_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ALIASES: Final = ("common", "organizations")

_Form = Mapping[str, str]


class TokenEndpoint:
    """``/{tenant}/oauth2/v2.0/token``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._grants: dict[str, Callable[[str, _Form], Response]] = {
            _JWT_BEARER: self._on_behalf_of,
            "authorization_code": self._authorization_code,
            "client_credentials": self._client_credentials,
            "refresh_token": self._refresh_token,
        }

    def handle(self, request: Request, tenant: str) -> Response:
        """Answer one request, after the faults that were ordered.

        Raises:
            EntraError: it is refused.
        """
        form = request.form
        self._record(request, form, tenant)
        fault = self._world.faults.next(self._user_name(form))
        if isinstance(fault, Response):
            return fault
        if fault is not None:
            raise fault
        if tenant not in _ALIASES and not self._world.directory.has_tenant(tenant):
            raise EntraError(90002, text=f"Tenant '{tenant}' not found.")
        grant = self._grants.get(_required(form, "grant_type"))
        if grant is None:
            raise EntraError(70003)
        return grant(tenant, form)

    def _record(self, request: Request, form: _Form, tenant: str) -> None:
        grant_type = form.get("grant_type", "")
        grant = "on_behalf_of" if grant_type == _JWT_BEARER else grant_type
        self._world.ledger.record(
            TokenRequest(
                tenant=tenant,
                grant=grant,
                client_id=form.get("client_id"),
                scope=form.get("scope"),
                claims=form.get("claims"),
                client_assertion_id=peek_assertion_id(form),
                client_request_id=request.headers.get("client-request-id"),
                form=form,
                headers=request.headers,
            )
        )

    def _user_name(self, form: _Form) -> str | None:
        """Return whom a request is about, as far as it says so."""
        grant = self._world.grants.find_refresh_token(form.get("refresh_token", ""))
        user = grant.sign_in.user if grant else peek_user(self._world, form.get("assertion", ""))
        return user.name if user else None

    def _on_behalf_of(self, tenant: str, form: _Form) -> Response:
        """Exchange a user's access token for one of another API."""
        world = self._world
        client = self._client(tenant, form)
        _refuse_alias(tenant)
        if client.public:
            raise EntraError(7000114)
        if _required(form, "requested_token_use") != "on_behalf_of":
            raise EntraError(9002313, text="requested_token_use must be 'on_behalf_of'.")
        sign_in = check_assertion(world, _required(form, "assertion"), client, tenant)
        asked = parse_scope(form.get("scope", ""), world.directory)
        wanted = parse_claims(form.get("claims"))
        client_info = form.get("client_info") == "1"
        return json_response(
            issue_for_user(world, sign_in, client, asked, wanted, client_info=client_info)
        )

    def _refresh_token(self, tenant: str, form: _Form) -> Response:
        """Redeem a refresh token, which another one then takes the place of."""
        world = self._world
        client = self._client(tenant, form)
        text = _required(form, "refresh_token")
        grant = world.grants.find_refresh_token(text)
        if grant is None or grant.client_id != client.client_id:
            raise EntraError(70000)
        sign_in = grant.sign_in
        if tenant not in (*_ALIASES, sign_in.user.tenant_id):
            raise EntraError(50020)
        user = sign_in.user
        if world.directory.user_by_oid(user.tenant_id, user.oid) is None:
            raise EntraError(50034)
        if world.sessions.is_revoked(user, sign_in.session_id):
            raise EntraError(50173)
        asked = parse_scope(form.get("scope") or grant.scope, world.directory, openid_only=True)
        answer = issue_for_user(
            world,
            sign_in,
            client,
            asked,
            parse_claims(form.get("claims")),
            client_info=form.get("client_info") == "1",
            with_refresh_token=True,
        )
        world.grants.drop_refresh_token(text)
        return json_response(answer)

    def _client_credentials(self, tenant: str, form: _Form) -> Response:
        """Give a client a token of its own."""
        world = self._world
        client = self._client(tenant, form)
        _refuse_alias(tenant)
        if client.public:
            raise EntraError(7000218)
        asked = parse_scope(form.get("scope", ""), world.directory)
        if not asked.is_default:
            raise EntraError(70011, text="The scope of client credentials must end in /.default.")
        wanted = parse_claims(form.get("claims"))
        return json_response(issue_for_app(world, tenant, client, asked, wanted))

    def _authorization_code(self, tenant: str, form: _Form) -> Response:
        """Redeem the code of a sign-in (RFC 6749 section 4.1.3, RFC 7636 section 4.6)."""
        world = self._world
        client = self._client(tenant, form)
        code = world.grants.redeem_code(_required(form, "code"))
        if code.client_id != client.client_id:
            raise EntraError(70000)
        if tenant not in (*_ALIASES, code.sign_in.user.tenant_id):
            raise EntraError(50020)
        if code.redirect_uri != _required(form, "redirect_uri"):
            raise EntraError(500112)
        verifier = form.get("code_verifier", "")
        digest = encode_base64url(hashlib.sha256(verifier.encode()).digest())
        if code.challenge is not None and not secrets.compare_digest(digest, code.challenge):
            raise EntraError(501481)
        scope = form.get("scope") or code.scope
        answer = issue_for_user(
            world,
            code.sign_in,
            client,
            parse_scope(scope, world.directory, openid_only=True),
            parse_claims(form.get("claims") or code.claims),
            client_info=form.get("client_info") == "1",
            nonce=code.nonce,
        )
        return json_response(answer)

    def _client(self, tenant: str, form: _Form) -> App:
        """Return the client app that asks, after checking its credential."""
        client = self._world.directory.find_app(_required(form, "client_id"))
        if client is None or client.client_id != form["client_id"].lower():
            raise EntraError(700016)
        authenticate_client(self._world, client, form, tenant)
        return client


def _required(form: _Form, name: str) -> str:
    if not form.get(name):
        text = f"The request body must contain the following parameter: '{name}'."
        raise EntraError(900144, text=text)
    return form[name]


def _refuse_alias(tenant: str) -> None:
    if tenant in _ALIASES:
        raise EntraError(9001023)
