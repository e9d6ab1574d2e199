# SPDX-License-Identifier: Apache-2.0
"""A run folder is run here, in this process, and shown while it forms: in a notebook, in a terminal, or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dreamlab import pipeline
from dreamlab.core import ahead
from dreamlab.core.errors import Interrupted, RecipeError
from dreamlab.python.bar import Bar
from dreamlab.python.notebook import NotebookProgress, in_notebook
from dreamlab.run.folder import Run
from dreamlab.run.signals import StopSignal
from dreamlab.run.train import Tick
from dreamlab.run.watching import UNWATCHED, WATCHED, Showing

Progress = bool | Callable[[Tick], None] | None  # None: as the place is; or whether; or who is told


class _Patient(StopSignal):
    """A second Ctrl-C stops at once, and leaves the process, a notebook's perhaps, alive."""

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt("stopped at once: what was made since the last checkpoint is lost")
        super().handle(number, frame)


def go(run: Run, device: str, progress: Progress) -> list[Path]:
    """Run the folder to its end; the files that were made."""
    try:
        with _shown(run, progress) as (on_tick, watch):
            return pipeline.execute(run, device, on_tick, asked=_Patient(), watch=watch)
    except Interrupted as error:
        if error.exit_code != 130:
            raise
        ahead.settled()  # a module that is still being read would take back by what signal this process ended
        # Python's own, so that it ends a loop over many runs and a shell's loop over scripts, too.
        raise KeyboardInterrupt(f"{error}; go on with: dreamlab.open({str(run.path)!r}).resume()") from None


@contextmanager
def _shown(run: Run, progress: Progress) -> Iterator[tuple[Callable[[Tick], None], Showing]]:
    """Who is told, and what of the scene is drawn as it forms."""
    if progress is not None and not isinstance(progress, bool):
        if not callable(progress):
            raise RecipeError(f"progress: {progress!r}; True, False, or a function that is told each tick")
        yield progress, UNWATCHED
    elif progress is not False and in_notebook():
        with NotebookProgress(run) as shown:
            yield shown.update, WATCHED
    elif progress or (progress is None and sys.stderr.isatty()):
        with Bar() as bar:
            yield bar.update, UNWATCHED
    else:
        yield (lambda tick: None), UNWATCHED
