# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM: the first asks the loop to checkpoint and stop, the second stops at once. A thread that watches
over a run may ask, too."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Set from a signal handler or another thread, read by the loop between steps."""

    def __init__(self) -> None:
        self.requested = False
        self.signalled = False
        self.exit_code = 75  # temporary failure: run it again and it goes on

    def request(self) -> None:
        """As the first SIGTERM, but asking twice is asking once."""
        self.requested = True

    def handle(self, number: int, frame: FrameType | None) -> None:
        code = 130 if number == signal.SIGINT else 75
        if self.requested:
            os._exit(code)  # whatever is being written is under a temporary name
        self.requested, self.signalled, self.exit_code = True, True, code


@contextmanager
def catching(given: StopSignal | None = None) -> Iterator[StopSignal]:
    """Handlers for the time of a run; the former ones are put back. A thread beside the main one hears no signals: who
    holds `given` can stop it."""
    stop = given or StopSignal()
    heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    former = {number: signal.signal(number, stop.handle) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
