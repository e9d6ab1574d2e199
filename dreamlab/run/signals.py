# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM: the first asks the loop to checkpoint and stop, the second stops at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Set from a signal handler, read by the loop between steps."""

    def __init__(self) -> None:
        self.requested = False
        self.exit_code = 75  # temporary failure: run it again and it goes on

    def handle(self, number: int, frame: FrameType | None) -> None:
        code = 130 if number == signal.SIGINT else 75
        if self.requested:
            os._exit(code)  # whatever is being written is under a temporary name
        self.requested, self.exit_code = True, code


@contextmanager
def catching() -> Iterator[StopSignal]:
    """Handlers for the time of a run; the former ones are put back."""
    stop = StopSignal()
    former = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
