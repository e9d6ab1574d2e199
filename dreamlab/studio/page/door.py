# SPDX-License-Identifier: Apache-2.0
"""Puts the page on the server's app, behind a door that lets through what the page needs of gradio and no more.

gradio brings some sixty addresses: uploads without our caps, a proxy to other hosts, an editor of code. The page uses
none of them; it is given six, and every other is 404.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from dreamlab.studio.page.blocks import build, theme
from dreamlab.studio.page.head import POLICY, layered, rewritten

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = re.compile(
    r"/|/config/?|/theme\.css|/gradio_api/(?:theme\.css|startup-events|app_id)|/assets/[\w.-]+|/svelte/[\w./-]+"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
KEEP = {"Cache-Control": "max-age=3600", "X-Content-Type-Options": "nosniff"}  # names of assets carry a digest
CONDITIONAL = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")


def mount(app: FastAPI) -> None:
    """The page at `/`; whatever was put on `app` before has the right of way."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    closed = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    gr.mount_gradio_app(
        app, build(), path="/", theme=theme(), footer_links=[], run_history=False, ssr_mode=False, pwa=False,
        enable_monitoring=False, mcp_server=False, max_file_size=1, show_error=False, app_kwargs=closed,
    )  # fmt: skip
    mounted = app.router.routes[-1]
    mounted.app = Porch(mounted.app)  # type: ignore[attr-defined]  # a Mount, which gradio appends


class Porch:
    """Answers 404 for what is closed; the page itself goes out with our head and a policy."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import HTMLResponse, PlainTextResponse

        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        inside = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or not OPEN.fullmatch(inside):
            await PlainTextResponse("not found", 404)(scope, receive, send)
        elif inside == "/":
            status, text = await self.whole(scope, receive)
            await HTMLResponse(rewritten(text), status, dict(HEADERS))(scope, receive, send)
        elif inside.endswith(".css") and inside.startswith("/assets/"):
            status, text = await self.whole(scope, receive)
            await PlainTextResponse(layered(text), status, KEEP, "text/css")(scope, receive, send)
        else:
            await self.inner(scope, receive, send)

    async def whole(self, scope: Scope, receive: Receive) -> tuple[int, str]:
        """What gradio answers, in one piece and uncompressed."""
        plain = [(key, value) for key, value in scope["headers"] if key.lower() not in CONDITIONAL]
        status, parts = 500, []

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self.inner({**scope, "headers": plain}, receive, keep)
        return status, b"".join(parts).decode("utf-8")
