# SPDX-License-Identifier: Apache-2.0
"""The studio as a process: one port with REST, files and the page; beside it a supervisor of the queue's workers."""

from __future__ import annotations

import errno
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from urllib.parse import quote

from dreamlab.core.errors import DreamError, InputError, RecipeError
from dreamlab.jobs.database import FOLDER
from dreamlab.jobs.index import RunIndex
from dreamlab.jobs.queue import Queue
from dreamlab.studio.answers import Reply
from dreamlab.studio.api.all import endpoints
from dreamlab.studio.asgi import Api, sign_in
from dreamlab.studio.auth import Porter, secret_of
from dreamlab.studio.guard import App, Guarded, Receive, Scope, Send, header, send_reply
from dreamlab.studio.helpers import Helpers
from dreamlab.studio.studio import Options, Studio
from dreamlab.studio.uploads import Uploads

OURS = ("/v1/", "/static/")  # and /mcp, /login: never the page's
SINGLE = ("/mcp", "/login")
BACKLOG = 512  # connections that wait to be taken
PATIENCE_S = 3  # that a closing server gives to what is under way
NO_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>DreamLab</title>
<p>This studio runs without its page. The interface is described at <a href="/v1/openapi.json">/v1/openapi.json</a>.
"""


def studio_of(options: Options) -> Studio:
    """Opens, or makes, what a studio works on."""
    queue = Queue(options.root)
    secret = secret_of(options.root / FOLDER / "secret") if options.users else b""
    # Cookies do not tell ports apart: two studios of one machine would take each other's.
    return Studio(
        options,
        queue,
        RunIndex(options.root),
        Uploads(options.root),
        Porter(options.users, secret, f"dreamlab_{options.port}"),
    )


def application(studio: Studio) -> App:
    """Everything that answers on the port, behind its guard."""
    api = Api(studio, endpoints(studio.options.mcp))
    return Guarded(Front(api, page_of() if studio.options.page else None), studio.names)


def page_of() -> App:
    """The gradio page; RecipeError where its packages are missing."""
    with needed():
        from fastapi import FastAPI

        from dreamlab.studio.page import mount

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    mount(app)
    return app


@contextmanager
def needed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        way = "pip install 'dreamlab[studio]', or make studio"
        raise RecipeError(f"the studio needs a package that is not here ({error.name}): {way}") from None


class Front:
    """Sends a request to REST or to the page, which is for those who have signed in."""

    def __init__(self, api: Api, page: App | None) -> None:
        self.api, self.page = api, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await (self.page or lifespan)(scope, receive, send)
        path = scope["path"]
        if path.startswith(OURS) or path in SINGLE or path == "/v1":
            return await self.api(scope, receive, send)
        if await self.api.owner(scope) is None:
            return await send_reply(_to_login(scope), send)
        if self.page is not None:
            return await self.page(scope, receive, send)
        if path == "/":
            return await send_reply(Reply(NO_PAGE.encode(), kind="text/html; charset=utf-8"), send)
        await self.api(scope, receive, send)


def _to_login(scope: Scope) -> Reply:
    if scope["method"] not in ("GET", "HEAD") or "text/html" not in header(scope, b"accept"):
        return sign_in().reply()
    query = scope["query_string"].decode("latin-1")
    onward = quote(scope["path"] + (f"?{query}" if query else ""), safe="")
    return Reply(
        b"", 303, {"Location": f"/login?next={onward}", "Cache-Control": "no-store"}, "text/html; charset=utf-8"
    )


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Of a studio without a page: nothing to begin, nothing to end."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


# ---- the process -----------------------------------------------------------------------------------------------------
def listening(address: str, port: int) -> socket.socket:
    """A socket that takes connections; one line where the port is another's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # a port that was ours a minute ago may be taken again
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((address, port))
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        found.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            said = f"port {port} of {address} is in use, perhaps by another studio"
            raise InputError(f"{said}; stop that one, or choose another: --port 0 takes a free one") from None
        raise InputError(f"--listen {address} --port {port}: cannot be listened on ({error})") from None
    return found


def address_of(bound: socket.socket, options: Options) -> str:
    host, port = bound.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def serve(options: Options, say: Callable[[str], None] = print) -> int:
    """Run until a signal; returns the exit code."""
    with needed():
        import uvicorn

    class Server(uvicorn.Server):
        """Ends by itself on a signal, which is not raised again: jobs are to be saved first."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def _heard(self, number: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit  # the second time
            self.should_exit = True

    bound = listening(options.address, options.port)
    with bound:
        options = Options(**{**vars(options), "port": bound.getsockname()[1]})
        studio = studio_of(options)
        app = application(studio)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="on", backlog=BACKLOG,
            timeout_graceful_shutdown=PATIENCE_S, timeout_keep_alive=30, h11_max_incomplete_event_size=1 << 16,
            proxy_headers=False, ws="none",
        )  # fmt: skip
        helpers = Helpers(studio)
        helpers.start()
        warm(studio)
        say(f"DreamLab studio: {address_of(bound, options)}/")
        try:
            Server(config).run(sockets=[bound])
        finally:
            helpers.stop()
    return 0


def warm(studio: Studio) -> None:
    """Load the engine, and look at all runs, while nobody waits for it yet."""

    def load() -> None:
        import dreamlab.pipeline  # noqa: F401

        with suppress(DreamError):  # whoever asks is told
            studio.index.count()

    threading.Thread(target=load, name="warm", daemon=True).start()


def check(options: Options, sure: bool) -> None:
    """Who may reach it must be told apart, or be trusted."""
    if options.open and not options.users and not sure:
        way = "give --auth FILE or user:password, or --i-know if everybody there may do everything here"
        raise InputError(f"--listen {options.address}: others could use this machine; {way}")
    if not options.root.exists():
        options.root.mkdir(parents=True, exist_ok=True)
