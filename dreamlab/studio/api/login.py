# SPDX-License-Identifier: Apache-2.0
"""Signing in: a token for programs, a cookie for the page, and the one page that is there without either."""

from __future__ import annotations

import html
from dataclasses import dataclass
from urllib.parse import parse_qs

from dreamlab.core.settings import setting
from dreamlab.studio.answers import Refusal, Reply
from dreamlab.studio.api.base import Call, Endpoint
from dreamlab.studio.auth import LASTS_S

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in - DreamLab</title>
<style>
:root { color-scheme: light dark; --ground: #f6f7f9; --panel: #fff; --line: #d9dce3; --text: #1b1f27;
  --bad: #c62a2f; --accent: #4f7cff }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --panel: #1c1f25; --line: #343944; --text: #e8eaef;
    --bad: #ff7b7f; --accent: #7c9bff }
}
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--ground); color: var(--text);
  font: 14px/20px system-ui, sans-serif }
form { width: min(320px, calc(100vw - 64px)); padding: 24px; background: var(--panel);
  border: 1px solid var(--line); border-radius: 8px }
h1 { margin: 0 0 16px; font-size: 20px; line-height: 28px; font-weight: 600 }
label { display: block; margin-bottom: 12px }
input { box-sizing: border-box; width: 100%%; margin-top: 4px; padding: 8px; font: inherit; color: inherit;
  background: var(--ground); border: 1px solid var(--line); border-radius: 8px }
button { width: 100%%; padding: 8px; font: inherit; font-weight: 600; color: #fff; background: #3a62d8;
  border: 0; border-radius: 8px }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
p { margin: 0 0 12px; color: var(--bad) }
</style></head>
<body><main><form method="post" action="/login"><h1>DreamLab</h1>%(said)s
<label>Name<input name="name" autocomplete="username" required autofocus></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required></label>
<input type="hidden" name="next" value="%(next)s">
<button>Sign in</button></form></main></body></html>
"""


@dataclass(frozen=True)
class LoginRequest:
    """Who signs in."""

    name: str = setting(help="of a user of this studio")
    password: str = setting(help="of that user")


@dataclass(frozen=True)
class LoginQuery:
    """Where to go on afterwards."""

    next: str = setting("/", help="an address of the page")


def login(call: Call) -> Reply:
    """A token for `Authorization: Bearer`, which is in the cookie too."""
    asked = call.given(LoginRequest)
    token = _token(call, asked.name, asked.password)
    return Reply({"token": token, "owner": asked.name, "seconds": LASTS_S}, headers={"Set-Cookie": cookie(call, token)})


def _token(call: Call, name: str, password: str) -> str:
    door = call.studio.door
    if not door.users:
        raise Refusal(409, "conflict", "this studio has no users: nobody need sign in", "leave it out")
    if not door.right(name, password, call.address):
        raise Refusal(401, "sign_in", "the name or the password is not right", "try again")
    return door.token(name)


def logout(call: Call) -> Reply:
    """Forget the cookie."""
    return Reply({}, headers={"Set-Cookie": f"{call.studio.door.cookie}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"})


def cookie(call: Call, token: str) -> str:
    """That scripts cannot read, and that another site's requests do not carry."""
    return f"{call.studio.door.cookie}={token}; Path=/; Max-Age={LASTS_S}; HttpOnly; SameSite=Lax"


def login_page(call: Call) -> Reply:
    """Asks for name and password."""
    return page("", call.asked(LoginQuery).next)


def page(said: str, onward: str, status: int = 200) -> Reply:
    told = {
        "said": f"<p role=alert>{html.escape(said)}</p>" if said else "",
        "next": html.escape(safe(onward), quote=True),
    }
    return Reply((PAGE % told).encode(), status, {"Cache-Control": "no-store"}, "text/html; charset=utf-8")


def safe(onward: str) -> str:
    """An address of this server alone."""
    fine = (
        onward.startswith("/") and not onward.startswith(("//", "/\\")) and onward.isprintable() and "\\" not in onward
    )
    return onward if fine and len(onward) < 2000 else "/"


def login_form(call: Call) -> Reply:
    """What the page sends: as a browser encodes a form."""
    body = call.body if isinstance(call.body, bytes) else b""
    try:
        given = parse_qs(body.decode("ascii"), True, False, "utf-8", "strict", 16)
        name, password = given["name"][0], given["password"][0]
    except (ValueError, KeyError):
        return page("Name and password, please.", "/", 422)
    onward = safe(given.get("next", ["/"])[0])
    try:
        token = _token(call, name, password)
    except Refusal as refusal:
        return page(f"{refusal.message[:1].upper()}{refusal.message[1:]}.", onward, refusal.status)
    return Reply(b"", 303, {"Location": onward, "Set-Cookie": cookie(call, token)}, "text/html; charset=utf-8")


ENDPOINTS = (
    Endpoint(
        "POST", "/v1/login", login, "A token of a user", body=LoginRequest, refuses=(401, 409, 422, 429), open=True
    ),
    Endpoint("POST", "/v1/logout", logout, "Forget the page's session", open=True),
)
PAGES = (
    Endpoint("GET", "/login", login_page, "Where to sign in", LoginQuery, kind="text/html", open=True),
    Endpoint("POST", "/login", login_form, "Sign in", body=bytes, kind="text/html", open=True),
)
