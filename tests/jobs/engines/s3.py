# SPDX-License-Identifier: Apache-2.0
"""An S3 of this process: moto's server, with a layer before it that fails, answers late, and loses answers."""

from __future__ import annotations

import io
import random
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

BUCKET = "batches"


@dataclass
class Weather:
    """What share of requests meets what; `seen` counts what came of it."""

    fails: float = 0.0  # refused with 503, nothing done
    loses: float = 0.0  # done, and the connection is cut before the answer
    slow: float = 0.0  # done after `delay` seconds
    delay: float = 0.3
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    seen: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> str:
        with self.lock:
            drawn, chosen = self.dice.random(), "fair"
            for kind, share in (("fails", self.fails), ("loses", self.loses), ("slow", self.slow)):
                if drawn < share:
                    chosen = kind
                    break
                drawn -= share
            self.seen[chosen] += 1
        return chosen


class S3Server:
    """As a context: `environment` is what an S3 client has to know."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, *words: object) -> None:
                pass

        self.app = DomainDispatcherApplication(create_backend_app)
        self.weather, self.lock = Weather(), threading.Lock()
        self.places = 0
        self.server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Silent)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        kind = self.weather.next()
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if kind == "fails":
            return refused(start)
        environ["wsgi.input"] = io.BytesIO(body)
        if kind == "slow":
            time.sleep(self.weather.delay)
        # moto looks, and then writes; S3 does both at once.
        with self.lock if "HTTP_IF_NONE_MATCH" in environ else nullcontext():
            if kind != "loses":
                return self.app(environ, start)
            list(self.app(environ, lambda *told: None))
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return refused(start)

    def place(self) -> str:
        """An address of nobody else."""
        self.places += 1
        return f"s3://{BUCKET}/{self.places}"

    def __enter__(self) -> S3Server:
        self.thread.start()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT")).close()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def refused(start: Callable[..., Any]) -> Iterable[bytes]:
    start("503 Slow Down", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return [b""]
