"""The HTML of the sign-in pages: plain forms that work without JavaScript."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from ._asgi import Response
from .directory import User

_STYLE: Final = """
body { margin: 0; min-height: 100vh; display: grid; place-items: center; color: #1b1b1b;
  background: #eef2f7; font: 1rem/1.5 system-ui, sans-serif; }
main { box-sizing: border-box; width: min(27rem, 92vw); padding: 2.2rem; background: #fff;
  border-radius: .4rem; box-shadow: 0 .2rem 1.2rem rgb(0 0 0 / 16%); }
h1 { margin: 0 0 .6rem; font-size: 1.5rem; font-weight: 600; }
p, ul { margin: 0 0 1.2rem; }
button { display: block; width: 100%; margin: 0 0 .6rem; padding: .7rem 1rem; font: inherit;
  text-align: start; color: inherit; background: #fff; border: 1px solid #767676;
  border-radius: .25rem; cursor: pointer; }
button:hover { background: #f3f3f3; }
button.primary { color: #fff; background: #005a9e; border-color: #005a9e; text-align: center; }
button.primary:hover { background: #004578; }
button:focus-visible { outline: 3px solid #005a9e; outline-offset: 2px; }
small { display: block; color: #595959; }
footer { margin-top: 1.4rem; font-size: .85rem; color: #595959; }
"""
_HEADERS: Final = {
    "content-type": "text/html; charset=utf-8",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


def pick_user(client: str, users: Iterable[User]) -> Response:
    """Ask who signs in: one button for each user."""
    buttons = "".join(
        f'<button name="user" value="{escape(user.name)}">{escape(user.display_name)}'
        f"<small>{escape(user.username)}</small></button>"
        for user in users
    )
    return _page("Pick an account", f"<p>to continue to {escape(client)}</p>", buttons)


def step_up(user: User) -> Response:
    """Ask for the pretend second factor."""
    text = f"<p>{escape(user.username)}: approve the sign-in on your phone (just pretend).</p>"
    button = '<button class="primary" name="mfa" value="done">Approve</button>'
    return _page("Approve sign-in request", text, _hidden({"user": user.name}) + button)


def consent(
    user: User, client: str, scopes: Iterable[tuple[str, str]], answers: Mapping[str, str]
) -> Response:
    """Ask the user to let a client app have scopes, given as pairs of resource and scope."""
    items = "".join(
        f"<li>{escape(scope)} <small>{escape(resource)}</small></li>" for resource, scope in scopes
    )
    text = f"<p>{escape(user.username)}: {escape(client)} would like to</p><ul>{items}</ul>"
    buttons = (
        '<button class="primary" name="consent" value="accept">Accept</button>'
        '<button name="consent" value="decline">Decline</button>'
    )
    known = {"user": user.name} | {key: answers[key] for key in ("mfa",) if key in answers}
    return _page("Permissions requested", text, _hidden(known) + buttons)


def refusal(message: str) -> Response:
    """Tell the person that the request cannot be served."""
    return _page("Sorry, but we are having trouble signing you in", f"<p>{escape(message)}</p>", "")


def _hidden(fields: Mapping[str, str]) -> str:
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )


def _page(title: str, text: str, controls: str) -> Response:
    """Make a page whose form is posted to the page's own URL, query and all."""
    form = f'<form method="post">{controls}</form>' if controls else ""
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><main><h1>{escape(title)}</h1>{text}{form}"
        "<footer>FakeEntra: a pretend sign-in for tests and demos. No password is asked for."
        "</footer></main></body></html>"
    )
    return Response(200 if controls else 400, html.encode(), _HEADERS)
