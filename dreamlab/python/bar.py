# SPDX-License-Identifier: Apache-2.0
"""A live bar with stage, step, it/s and time left; plain lines now and then where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 5.0


class Ticking(Protocol):
    """What a bar is told: a `Tick` of the loop, or what a studio says of a job."""

    @property
    def stage(self) -> str: ...

    @property
    def step(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def done(self) -> int: ...

    @property
    def total(self) -> int: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def note(self) -> str: ...


class Tempo:
    """How fast it goes, since the first tick."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None
        self.rate = 0.0  # steps a second; 0 while nobody knows

    def at(self, tick: Ticking) -> float:
        """The seconds left, 0 while nobody knows."""
        now = time.monotonic()
        if self.first is None:
            self.first = (now, tick.done)
        elapsed, steps = now - self.first[0], tick.done - self.first[1]
        self.rate = steps / elapsed if elapsed > 0 and steps else 0.0
        return (tick.total - tick.done) / self.rate if self.rate else 0.0


class Bar:
    """Feed it what happens."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[rate]:5.1f} it/s"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4g}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.pace = Tempo()
        self.printed = 0.0

    def __enter__(self) -> Bar:
        self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.__exit__(kind, error, trace)

    def update(self, tick: Ticking) -> None:
        if tick.note:
            self.console.print(tick.note, markup=False, highlight=False, soft_wrap=True)
        now, left = time.monotonic(), self.pace.at(tick)
        rate = self.pace.rate
        if self.live.disable:
            if now - self.printed >= PLAIN_EVERY_S or tick.done == tick.total:
                pace = f"{rate:.1f} it/s  {left:.0f} s left" if rate else "starting"
                line = f"{tick.stage} {tick.step}/{tick.steps}  {pace}  loss {tick.metrics['loss']:.4g}"
                print(line, file=sys.stderr, flush=True)
                self.printed = now
            return
        if self.task is None:
            self.task = self.live.add_task(tick.stage, total=tick.total, rate=0.0, loss=0.0)
        self.live.update(self.task, completed=tick.done, description=tick.stage, rate=rate, loss=tick.metrics["loss"])
