# SPDX-License-Identifier: Apache-2.0
"""What a run leaves for those who watch it form: files for a 3D view, more previews than its recipe keeps, and on the
procedural world how near it is to the truth.

All of it is paid for out of a small share of the run's time, and changes nothing of what the run makes: no random
stream is touched, no parameter, no setting that an asset tells of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dreamlab.core.errors import DreamError
from dreamlab.core.files import Json, write_atomic
from dreamlab.core.types import Frames, Maker, Scene
from dreamlab.run.folder import Run
from dreamlab.run.particles import Particles
from dreamlab.run.preview import PREVIEW, orbit_views, save_sheet, seen_by
from dreamlab.run.truth import TruthOf, nearness, sheet
from renderers.surface.views import device_of

LIVE_SHARE, STRIP_SHARE = 0.015, 0.025  # of the time
LIVE_STEPS = 0.5  # what the first file may cost, in steps
TRIED = (32, 64)  # pixels a side of the view that says what a preview may cost
KEPT = 2  # files for a 3D view: one may be on its way to somebody when the next is there
CREDIT = 5.0  # seconds by which a run counts as older: the first file comes at once
OLDER = 60.0  # previews come no more often than once in a 60th of the run's age: some hundred in a night
LOST = 3  # files in a row that could not be made, before no more are tried


@dataclass(frozen=True)
class Showing:
    """What is wanted. Nothing of it belongs to the recipe, which travels in the assets."""

    live: float = 0.0  # seconds between two files for a 3D view, at least; 0: none
    strips: float = 0.0  # seconds between two previews beside those of the recipe, at least; 0: none
    truth: bool = False  # where the prompt is of the procedural world: what it should look like, and how near it is


UNWATCHED = Showing()
WATCHED = Showing(live=3.0, strips=2.0, truth=True)  # for runs that somebody may look at while they form
Snapshot = Callable[[Scene, int], tuple[str, bytes]]  # the kind of file, and a GLB of a scene in so much detail
DETAILS = 4  # how much detail there is to choose from


class Allowance:
    """When something that costs time may be done again: at most once in `every` seconds, and so seldom that all of it
    stays below a share of the time that has gone by."""

    def __init__(self, every: float, share: float, older: float = 0.0, clock: Callable[[], float] = time.monotonic):
        """`older`: nor more often than once in that part of the time gone by."""
        self.every, self.share, self.older, self.clock = every, share, older, clock
        self.began, self.ended = clock(), -float("inf")
        self.spent, self.last, self.times = 0.0, 0.0, 0

    def due(self) -> bool:
        if self.every <= 0:
            return False
        now = self.clock()
        age = now - self.began
        wait = max(self.every, age / self.older if self.older else 0.0)
        return now - self.ended >= wait and self.spent + self.last <= self.share * (age + CREDIT)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Around what is done."""
        start = self.clock()
        try:
            yield
        finally:
            self.ended = self.clock()
            self.last = self.ended - start
            self.spent += self.last
            self.times += 1

    def guess(self, seconds: float) -> None:
        """What it may cost, until that is known."""
        if not self.times:
            self.last = seconds

    @property
    def roomy(self) -> bool:
        """Whether four times the cost would still be affordable every time."""
        return 4 * self.last <= self.share * self.every

    def told(self) -> str:
        age = max(self.clock() - self.began, 1e-9)
        return f"{self.times} in {self.spent:.1f} s, {100 * self.spent / age:.1f} % of the time"


class Watcher:
    """Asked by the loop after every step; one made of nothing but a run wants nothing."""

    def __init__(
        self,
        run: Run,
        wanted: Showing = UNWATCHED,
        snapshot: Snapshot | None = None,
        truth: TruthOf | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run, self.snapshot, self.truth = run, snapshot, truth
        self.live = Allowance(wanted.live if snapshot else 0.0, LIVE_SHARE, clock=clock)
        self.strips = Allowance(wanted.strips, STRIP_SHARE, OLDER, clock)
        self.clock, self.step_s = clock, float("inf")
        self.stepped: float | None = None  # when the last step was over
        self.live.guess(self.step_s)
        self.strips.guess(self.step_s)
        self.detail, self.failures, self.turns = 0, 0, 0
        self.drawn: list[int] | None = None  # the prompts of the sheet of the truth that is there

    def look(self, scene: Scene, step: int, last: bool = False) -> None:
        """A file of the scene if it is time for one, of many prompts one at a time; and at the end of a stage what it
        all has cost, into the log."""
        if self.stepped is not None:
            self.step_s = min(self.step_s, self.clock() - self.stepped)
            self.live.guess(LIVE_STEPS * self.step_s)
        elif self.strips.every > 0:
            self.strips.guess(self._tried(scene))
        if self.snapshot is not None and self.live.due():
            with self.live.spending():
                made = self._written(self.snapshot, scene, step)
            if made is not None:
                self.run.event("live", **made, seconds=round(self.live.last, 3))
                self.detail = min(self.detail + 1, DETAILS - 1) if self.live.roomy else self.detail
        if last:
            for name, pace in (("files for the 3D view", self.live), ("previews beside the recipe's", self.strips)):
                if pace.times:
                    self.run.log(f"{name}: {pace.told()}")
        self.stepped = self.clock()

    def compare(self, step: int, seen: Sequence[Frames], which: Sequence[int] | None) -> None:
        """How near a preview is to the truth, of the prompts it shows."""
        if self.truth is None:
            return
        shown = [0] if which is None else list(which)
        views = [self.truth(i, seen[0].alpha.shape[1]) for i in shown]
        if shown != self.drawn:
            save_sheet(sheet(views), self.run.previews / "truth.png", columns=4)
            self.drawn = shown
        self.run.event("truth", step=step, **nearness(views, seen))

    def _written(self, snapshot: Snapshot, scene: Scene, step: int) -> Json | None:
        """A file, and what an event says of it; older ones but the last go."""
        one, path = self._one(scene), self.run.previews / f"live_{step:06d}.glb"
        try:
            kind, data = snapshot(one, self.detail)
            write_atomic(path, data)
        except (DreamError, OSError, ValueError, RuntimeError) as error:
            self._missed(step, error)
            return None
        self.failures = 0
        there = sorted(self.run.previews.glob("live_*.glb"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        for old in there[:-KEPT]:
            old.unlink(missing_ok=True)
        return {"path": path.name, "step": step, "of": kind, "bytes": len(data)}

    def _tried(self, scene: Scene) -> float:
        """What a preview may cost, from one of its views: drawn small, for that sets things up, and a quarter of it."""
        cost = 0.0
        for size in TRIED:
            start = self.clock()
            next(seen_by(self._one(scene), orbit_views(1), size, device_of(scene)))
            cost = self.clock() - start
            self.strips.spent += cost
        return cost * 4 * (PREVIEW / TRIED[-1]) ** 2

    def _one(self, scene: Scene) -> Scene:
        """The scene that is shown of several."""
        if isinstance(scene, Particles):
            return scene.scenes[0]
        if not isinstance(scene, Maker):
            return scene
        self.turns += 1
        return scene.made((self.turns - 1) % scene.count())

    def _missed(self, step: int, error: Exception) -> None:
        """Nothing to see yet is no reason to end a run; nor is a scene that cannot be shown, or a disk that is full."""
        self.failures += 1
        self.detail = max(self.detail - 1, 0)
        self.run.log(f"step {step}: no file for the 3D view: {' '.join(str(error).split())[:200]}")
        if self.failures >= LOST and not isinstance(error, DreamError):
            self.live.every = 0.0
            self.run.log("no more files for the 3D view are tried")
