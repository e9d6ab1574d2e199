# SPDX-License-Identifier: Apache-2.0
"""A worker in real time: what it holds is beaten for while it works, it hears when that no longer counts, and whether
it then stays or leaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import pytest

from dreamlab.core.errors import DiskError
from dreamlab.jobs.engines.ledger import HeldJob, Ledger
from dreamlab.jobs.engines.pull import AttemptOutcome, serve
from dreamlab.jobs.engines.simulated import JobRows, PlainStore
from dreamlab.jobs.states import ASKED_TO_STOP

Deed = Callable[[HeldJob, threading.Event, threading.Event], AttemptOutcome]


def worked(store: PlainStore, jobs: int, deed: Deed, stop: threading.Event | None = None) -> int:
    ledger = Ledger(store, "one", time.monotonic)
    return serve(ledger, JobRows({0: jobs}), deed, stop or threading.Event(), beat=0.02)


def superseded(store: PlainStore, held: HeldJob) -> None:
    while store.get(f"beats/{held.key}") is None:
        time.sleep(0.005)
    assert store.create(f"ends/{held.key}", b'{"end": "superseded", "by": "another"}')


def test_a_superseded_attempt_is_heard_of_at_the_next_beat_and_settles_nothing() -> None:
    store, heard, stop = PlainStore(), [], threading.Event()

    def deed(held: HeldJob, lost: threading.Event, leave: threading.Event) -> AttemptOutcome:
        superseded(store, held)
        heard.append(lost.wait(10))
        stop.set()
        return AttemptOutcome(0, {"of": "too late"}, fenced=lost.is_set())

    assert worked(store, 1, deed, stop) == 0
    assert heard == [True] and store.count("done/") == store.count("poison/") == 0


def test_who_lost_an_attempt_stays_and_works_on() -> None:
    """The run of a lost attempt ends as one that was asked to stop; the worker was not."""
    store, stop = PlainStore(), threading.Event()

    def deed(held: HeldJob, lost: threading.Event, leave: threading.Event) -> AttemptOutcome:
        if store.count("ends/"):
            return AttemptOutcome(0, {"of": held.key})
        superseded(store, held)
        assert lost.wait(10)
        return AttemptOutcome(ASKED_TO_STOP, fenced=True)

    assert worked(store, 3, deed, stop) == 3 and not stop.is_set()
    assert sorted(json.loads(store.held[f"done/00000/{row:04d}"])["attempt"] for row in range(3)) == [1, 1, 2]


def test_a_run_that_hears_the_signal_itself_takes_its_worker_along() -> None:
    """SIGTERM while a run goes on is the run's, whose handlers are in place then."""
    store, stop = PlainStore(), threading.Event()
    assert worked(store, 3, lambda held, lost, leave: AttemptOutcome(ASKED_TO_STOP, why="SIGTERM"), stop) == 0
    assert stop.is_set() and store.count("claims/") == 1
    assert [json.loads(data)["end"] for key, data in store.held.items() if key.startswith("ends/")] == ["paused"]


def test_a_full_disk_is_the_worker_s_and_not_the_job_s() -> None:
    store = PlainStore()
    full = AttemptOutcome(DiskError.exit_code, why="/tmp: no space left")
    with pytest.raises(DiskError, match="no space left; the worker leaves"):
        worked(store, 3, lambda held, lost, leave: full)
    assert store.count("claims/") == 1 and store.count("poison/") == 0
    assert worked(store, 3, lambda held, lost, leave: AttemptOutcome(0, {"of": held.key})) == 3
