# SPDX-License-Identifier: Apache-2.0
"""A browser for tests; and a small server of one folder on a free port."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import PROGRAMS, launched, program


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A playwright browser; skips where there is none."""
    path = program()
    if path is None:
        pytest.skip(f"needs a browser: one of {', '.join(PROGRAMS)}")
    pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with launched(path) as browser:
        yield browser


def shot(page: Any, name: str) -> None:
    """Pictures of what a test has come to, wide and narrow, where DREAMLAB_SHOTS names a folder."""
    folder = os.environ.get("DREAMLAB_SHOTS")
    for width, height in ((1440, 900), (375, 812)) if folder else ():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(700)
        page.screenshot(path=f"{folder}/{name}-{width}.png")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
