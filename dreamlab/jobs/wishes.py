# SPDX-License-Identifier: Apache-2.0
"""How a job that runs is asked to stop."""

from __future__ import annotations

from dreamlab.jobs.states import KEEP
from dreamlab.run.signals import StopSignal


class Wish(StopSignal):
    """Asked by the queue, too: to stop, or to stop and keep what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.keep = self.cancelled = False

    def hear(self, cancel: str) -> None:
        """What the queue says, as often as it says it."""
        if cancel == KEEP and not self.keep:
            self.keep = True
            self.request()
        elif cancel and cancel != KEEP:
            self.keep, self.cancelled = False, True
            self.request()
