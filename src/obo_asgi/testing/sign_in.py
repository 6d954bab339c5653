"""The authorization endpoint: a person picks a user, steps up, consents, and is sent back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlencode

from . import pages
from ._asgi import Request, Response
from .aadsts import EntraError
from .claims_request import parse_claims
from .directory import App, User
from .grants import SignIn
from .scopes import Asked, parse_scopes
from .world import World

_ALIASES: Final = ("common", "organizations")
_SEPARATORS: Final = {"query": "?", "fragment": "#"}


class _Permission(NamedTuple):
    client: App
    resource: App
    scope: str


@dataclass(frozen=True)
class _Question:
    """An authorization request that passed the checks (RFC 6749 section 4.1.1)."""

    tenant: str
    client: App
    asked: list[Asked]
    """What is asked for, by resource; tokens are for the first one, consent is for all."""
    parameters: Mapping[str, str]

    def redirect(self, **answer: str) -> Response:
        """Send the browser back to the client with an answer."""
        if "state" in self.parameters:
            answer["state"] = self.parameters["state"]
        uri = self.parameters["redirect_uri"]
        mark = _SEPARATORS[self.parameters.get("response_mode", "query")]
        mark = "&" if mark == "?" and "?" in uri else mark
        location = f"{uri}{mark}{urlencode(answer)}"
        return Response(302, headers={"location": location, "cache-control": "no-store"})

    def refuse(self, error: str, number: int) -> Response:
        """Send the browser back to the client with an error."""
        return self.redirect(error=error, error_description=EntraError(number).message)


class SignInPages:
    """``/{tenant}/oauth2/v2.0/authorize``; each page's form leads to the next one."""

    def __init__(self, world: World) -> None:
        self._world = world

    def handle(self, request: Request, tenant: str) -> Response:
        """Answer with the next page, or send the browser back to the client.

        A wrong request is told to the person, never to a redirect URI that was not registered.
        """
        self._world.ledger.counts["authorize"] += 1
        try:
            question = self._understand(request.query, tenant)
        except EntraError as error:
            return pages.refusal(error.message)
        answers = request.form if request.method == "POST" else {}
        user = self._find_user(question, answers.get("user"))
        if user is None:
            if request.query.get("prompt") == "none":
                return question.refuse("login_required", 50058)
            users = self._world.directory.users(None if tenant in _ALIASES else tenant)
            return pages.pick_user(question.client.name, users)
        return self._continue(question, user, answers)

    def _continue(self, question: _Question, user: User, answers: Mapping[str, str]) -> Response:
        """Go on with a known user: step up, consent, done."""
        prompt = question.parameters.get("prompt")
        methods = self._world.step_up.methods(user.name)
        if self._must_step_up(question, user) and "mfa" not in methods:
            if answers.get("mfa") != "done":
                if prompt == "none":
                    return question.refuse("interaction_required", 50076)
                return pages.step_up(user)
            methods = ("pwd", "mfa")
        missing = self._missing_consent(question, user)
        if missing or prompt == "consent":
            if answers.get("consent") == "decline":
                return question.refuse("access_denied", 65004)
            if answers.get("consent") != "accept":
                if prompt == "none":
                    return question.refuse("interaction_required", 65001)
                wanted = [(p.resource.name, p.scope) for p in self._wanted(question)]
                return pages.consent(user, question.client.name, wanted, answers)
            self._accept(question, user)
        sign_in = SignIn(user, self._world.sessions.current(user), methods)
        return question.redirect(code=self._new_code(question, sign_in))

    def _understand(self, parameters: Mapping[str, str], tenant: str) -> _Question:
        directory = self._world.directory
        if tenant not in _ALIASES and not directory.has_tenant(tenant):
            raise EntraError(90002, text=f"Tenant '{tenant}' not found.")
        client = directory.find_app(parameters.get("client_id", ""))
        if client is None:
            raise EntraError(700016)
        if not client.accepts_redirect(parameters.get("redirect_uri", "")):
            raise EntraError(50011)
        if parameters.get("response_type") != "code":
            raise EntraError(700054)
        if parameters.get("response_mode", "query") not in _SEPARATORS:
            raise EntraError(9002313, text="response_mode must be 'query' or 'fragment'.")
        challenge = parameters.get("code_challenge")
        if challenge is None and client.public:
            raise EntraError(9002325)
        if challenge is not None and parameters.get("code_challenge_method") != "S256":
            raise EntraError(9002313, text="code_challenge_method must be 'S256'.")
        parse_claims(parameters.get("claims"))
        asked = parse_scopes(parameters.get("scope", ""), directory, openid_only=True)
        return _Question(tenant, client, asked, parameters)

    def _find_user(self, question: _Question, picked: str | None) -> User | None:
        """Return whom the person picked, or the client named by a login hint or a session."""
        tenant = None if question.tenant in _ALIASES else question.tenant
        users = self._world.directory.users(tenant)
        name = picked or question.parameters.get("login_hint")
        if name is not None:
            return next((user for user in users if name in (user.name, user.username)), None)
        session_id = question.parameters.get("sid")
        current = self._world.sessions.current
        return next((user for user in users if session_id == current(user)), None)

    def _must_step_up(self, question: _Question, user: User) -> bool:
        wanted = parse_claims(question.parameters.get("claims"))
        demanded = self._world.step_up.demanded
        return bool(wanted.step_up) or any(demanded(user, a.resource) for a in question.asked)

    def _wanted(self, question: _Question) -> list[_Permission]:
        """Return what the user is asked to consent to.

        ``/.default`` of an API that knows the client includes what that API itself wants of every
        other resource (``knownClientApplications``).
        """
        wanted: list[_Permission] = []
        for asked in question.asked:
            resource = asked.resource
            names = asked.names or resource.scopes
            wanted += [_Permission(question.client, resource, scope) for scope in names]
            if asked.is_default and question.client.client_id in resource.known_clients:
                wanted += [
                    _Permission(resource, other, scope)
                    for other in self._world.directory.apps()
                    if other is not resource
                    for scope in other.scopes
                ]
        return wanted

    def _missing_consent(self, question: _Question, user: User) -> bool:
        granted = self._world.consents.granted
        return any(
            wanted.scope not in granted(user, wanted.client, wanted.resource)
            for wanted in self._wanted(question)
        )

    def _accept(self, question: _Question, user: User) -> None:
        for client, resource, scope in self._wanted(question):
            self._world.consents.say(
                True, user=user.name, client=client, resource=resource, scope=scope
            )

    def _new_code(self, question: _Question, sign_in: SignIn) -> str:
        parameters = question.parameters
        return self._world.grants.new_code(
            sign_in,
            client_id=question.client.client_id,
            redirect_uri=parameters["redirect_uri"],
            scope=parameters["scope"],
            challenge=parameters.get("code_challenge"),
            nonce=parameters.get("nonce"),
            claims=parameters.get("claims"),
        )
