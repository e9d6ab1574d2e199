# SPDX-License-Identifier: Apache-2.0
"""What a worker does from its start to the end of the work, as steps that somebody else carries out: real time and real
runs by `serve`, simulated ones by `benchmarks/clusters.py`. The decisions are the same code."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from dreamlab.core.errors import DiskError, DreamError
from dreamlab.core.files import Json
from dreamlab.jobs.engines.ledger import BEAT_S, HeldJob, Ledger, Task
from dreamlab.jobs.engines.search import Search, Tasks
from dreamlab.jobs.states import ASKED_TO_STOP


@dataclass(frozen=True)
class Rest:
    """Nothing to take now: look again after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt went: an exit code, results where it is 0, else why."""

    code: int
    results: Json = field(default_factory=dict)
    why: str = ""
    fenced: bool = False  # superseded while it ran


Step: TypeAlias = Rest | HeldJob
SLICE_S = 0.5
LONGEST_REST = 4  # times the first: the longer nothing was to do, the rarer a look
LEFT = (ASKED_TO_STOP, 130)
_NO_FAULT_OF_ITS = (*LEFT, DiskError.exit_code)  # of a job's: whoever comes next goes on from its checkpoint


def pull(
    ledger: Ledger,
    tasks: Tasks,
    leave: Callable[[], bool] = lambda: False,
    rest: float = BEAT_S,
    warm: Callable[[Task], bool] = lambda task: True,
) -> Generator[Step, AttemptOutcome | None, int]:
    """Until nothing is open, or `leave`; returns how many jobs it finished. Yields an attempt to run and is sent its
    outcome, or a rest. `warm`: whether the worker holds what a job loads; of a few such a one goes first."""
    dice = random.Random(ledger.worker)  # noqa: S311 - workers that begin together should not meet at one job
    search, finished, looked = Search(ledger, tasks, dice, warm), 0, 0
    while search.left and not leave():
        held = search.next(leave)
        if held is not None:
            looked = 0
            outcome = yield held
            assert outcome is not None
            finished += _settled(ledger, held, outcome)
            if outcome.code == DiskError.exit_code:
                raise DiskError(f"{outcome.why}; the worker leaves, and another goes on from its checkpoint")
            if outcome.code in _NO_FAULT_OF_ITS and not outcome.fenced:
                return finished
        elif search.left and not leave():
            yield Rest(rest * (0.5 + dice.random()) * min(1 + looked / 4, LONGEST_REST))
            looked += 1
    return finished


def _settled(ledger: Ledger, held: HeldJob, outcome: AttemptOutcome) -> bool:
    """Say how it went, where that still counts."""
    if outcome.fenced:
        return False
    if outcome.code == 0:
        return ledger.finish(held, outcome.results)
    if outcome.code in _NO_FAULT_OF_ITS:
        ledger.pause(held)
    else:
        ledger.fail(held, outcome.code, outcome.why)
    return False


class Performer(Protocol):
    """Runs an attempt; `lost` is set when it no longer counts, `stop` when the worker must leave."""

    def __call__(self, held: HeldJob, lost: threading.Event, stop: threading.Event) -> AttemptOutcome: ...


def serve(
    ledger: Ledger,
    tasks: Tasks,
    perform: Performer,
    stop: threading.Event,
    beat: float = BEAT_S,
    warm: Callable[[Task], bool] = lambda task: True,
) -> int:
    """Real time: jobs by `perform`, each with a thread that says that it lives."""
    steps = pull(ledger, tasks, stop.is_set, beat, warm)
    outcome: AttemptOutcome | None = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as end:
            return int(end.value)
        if isinstance(step, Rest):
            _rest(stop, step.seconds)
            outcome = None
        else:
            outcome = _attempt(ledger, step, perform, stop, beat)
            if outcome.code in LEFT and not outcome.fenced:
                stop.set()  # the run itself heard the signal


def _rest(stop: threading.Event, seconds: float) -> None:
    """In slices: a signal that is made up (`ray.cancel`) is heard between them alone."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, SLICE_S)):
        pass


def _attempt(ledger: Ledger, held: HeldJob, perform: Performer, stop: threading.Event, beat: float) -> AttemptOutcome:
    lost, over = threading.Event(), threading.Event()
    heart = threading.Thread(target=_beating, args=(ledger, held, beat, over, lost), daemon=True)
    heart.start()
    try:
        return perform(held, lost, stop)
    except DreamError as error:
        return AttemptOutcome(error.exit_code, why=str(error), fenced=lost.is_set())
    finally:
        over.set()
        heart.join()


def _beating(ledger: Ledger, held: HeldJob, beat: float, over: threading.Event, lost: threading.Event) -> None:
    count = 0
    while True:
        try:
            if not ledger.beat(held, count):
                lost.set()
                return
        except DiskError:
            pass  # the store may come back; if it does not, the lease runs out as it should
        count += 1
        if over.wait(beat):
            return
