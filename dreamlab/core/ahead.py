# SPDX-License-Identifier: Apache-2.0
"""Imports that are done while something else runs, in a thread of their own.

A fork in the middle of an import would leave its locks taken in the child for ever, so whoever forks waits for the
thread first: `settled`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

_under_way: list[threading.Thread] = []


def begin(imports: Callable[[], object]) -> None:
    """Call it beside what runs. A package that is missing is said by what needs it, later."""

    def work() -> None:
        with contextlib.suppress(ImportError):
            imports()

    thread = threading.Thread(target=work, name="imports", daemon=True)
    _under_way.append(thread)
    thread.start()


def settled() -> None:
    """Wait until nothing is under way."""
    while _under_way:
        _under_way[-1].join()
        _under_way.pop()
