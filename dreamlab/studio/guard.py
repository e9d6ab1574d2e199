# SPDX-License-Identifier: Apache-2.0
"""What stands before every request: names and origins (DNS rebinding, requests forged by other sites), sizes of bodies,
and the headers that keep a browser to this server alone.

A page of another site can make a browser send requests here, and by rebinding its own name can even read the answers.
So the Host must be a name that no stranger can point here: this machine's loopback names, or where the studio listens
to others, an address in numbers or a name that the user gave. And an Origin, where a browser tells one, must be ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dreamlab.studio.answers import Refusal, Reply

Scope = MutableMapping[str, Any]  # as the ASGI specification has them
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BODY, MOST_UPLOAD, MOST_TARGET = 1 << 20, 256 << 20, 8 << 10  # bytes of a body, of a file, of an address
UPLOADS = ("/v1/uploads", "/gradio_api/upload")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
ENGINE = ("/v1/", "/mcp")  # what answers data, never a page

# The page's shell puts scripts of its own into its document and makes functions of templates; nothing is ever loaded
# from, or sent to, any other host.
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
}


@dataclass(frozen=True)
class Names:
    """Under which names the studio may be asked for."""

    open: bool = False  # it listens to other machines: any address in numbers, which nobody can rebind
    more: frozenset[str] = frozenset()

    def know(self, host: str) -> bool:
        name = hostname(host)
        if name == "localhost" or name in self.more:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.open or address.is_loopback


def hostname(host: str) -> str:
    """Of a Host header: without port and brackets, in small letters; empty for what is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def header(scope: Scope, name: bytes) -> str:
    """A header's value, empty where there is none; of several the first."""
    found = next((value for key, value in scope["headers"] if key == name), b"")
    return str(found.decode("latin-1"))


def checked(scope: Scope, names: Names) -> None:
    """Refusal of a request that another site may have sent."""
    host = header(scope, b"host")
    if not names.know(host):
        raise Refusal(
            403,
            "host",
            f"this studio is not called {hostname(host)[:80]!r}",
            "ask for 127.0.0.1, or start it with --name",
        )
    origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
    other = Refusal(403, "origin", "the request comes from another site", "open the studio itself, in a tab of its own")
    if origin and urlsplit_netloc(origin) != host.lower():
        raise other
    if site in ("cross-site", "same-site"):
        unsafe = scope["method"] not in SAFE
        embedded = scope["path"].startswith(ENGINE) and header(scope, b"sec-fetch-mode") != "navigate"
        if unsafe or embedded:
            raise other


def urlsplit_netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def most_of(scope: Scope) -> int:
    """Bytes that a request's body may have."""
    return MOST_UPLOAD if scope["path"].startswith(UPLOADS) else MOST_BODY


def too_large(most: int) -> Refusal:
    return Refusal(413, "too_large", f"the body has more than {most} bytes", f"send at most {most} bytes")


class Guarded:
    """An application behind these checks."""

    def __init__(self, app: App, names: Names) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        begun = False

        async def say(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": with_headers(scope["path"], message.get("headers", ()))}
            await send(message)

        try:
            if scope["type"] != "http":  # a websocket: nothing of ours speaks it
                return await send({"type": "websocket.close", "code": 1008})
            if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_TARGET:
                raise Refusal(414, "too_large", f"the address has more than {MOST_TARGET} bytes")
            checked(scope, self.names)
            await self.app(scope, limited(scope, receive), say)
        except Refusal as refusal:
            if not begun:
                await send_reply(refusal.reply(), say)


def limited(scope: Scope, receive: Receive) -> Receive:
    """The same body, up to what it may have; told before it is read where the client says its length."""
    most, told = most_of(scope), header(scope, b"content-length")
    if told.isdecimal() and (len(told) > 15 or int(told) > most):
        raise too_large(most)
    had = 0

    async def counted() -> Message:
        nonlocal had
        message = await receive()
        had += len(message.get("body", b""))
        if had > most:
            raise too_large(most)
        return message

    return counted


def with_headers(path: str, given: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those of a reply, and ours; what a handler says of caching stays."""
    data = path.startswith(ENGINE)
    ours = HEADERS | {"content-security-policy": DATA_POLICY if data else PAGE_POLICY}
    names = {name.lower() for name, _ in given}
    if not data and b"content-security-policy" in names:
        del ours["content-security-policy"]  # the page has its own
    if data and b"cache-control" not in names:
        ours["cache-control"] = "no-store"
    kept = [(name, value) for name, value in given if name.lower().decode("latin-1") not in ours]
    return [*kept, *((name.encode(), value.encode()) for name, value in ours.items())]


async def send_reply(reply: Reply, send: Send) -> None:
    """A whole reply by itself, without the application."""
    data = reply.data()
    told = {"content-type": reply.kind, "content-length": str(len(data))}
    told |= {name.lower(): value for name, value in reply.headers.items()}
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
