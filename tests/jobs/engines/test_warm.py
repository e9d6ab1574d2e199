# SPDX-License-Identifier: Apache-2.0
"""A worker takes jobs whose guidance it holds before others, and leaves none of the others behind."""

from __future__ import annotations

import time

import pytest

from dreamlab.jobs.engines.ledger import Ledger, Task
from dreamlab.jobs.engines.pull import AttemptOutcome, Rest, pull
from dreamlab.jobs.engines.runner import loads
from dreamlab.jobs.engines.simulated import PlainStore

JOBS, MODELS = 96, ("one", "two", "three")


class Mixed:
    """A shard in which every job loads another model than the one before."""

    def shards(self) -> dict[int, int]:
        return {0: JOBS}

    def task(self, shard: int, row: int) -> Task:
        return Task(shard, row, {"prompt": "a duck", "recipe": MODELS[row % 3]})


def loaded(warm: bool, name: str) -> tuple[int, int]:
    """How often a worker that holds one model loads another, and how many jobs it did."""
    store, held, loads_, done = PlainStore(), "", 0, 0
    ledger = Ledger(store, name, time.monotonic)
    told = (lambda task: task.wanted["recipe"] == held) if warm else (lambda task: True)
    steps = pull(ledger, Mixed(), warm=told)
    step = next(steps)
    while True:
        assert not isinstance(step, Rest)
        loads_ += step.task.wanted["recipe"] != held
        held, done = step.task.wanted["recipe"], done + 1
        try:
            step = steps.send(AttemptOutcome(0))
        except StopIteration:
            return loads_, done


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_models_are_loaded_seldom_and_every_job_is_done(name: str) -> None:
    (warm, done), (cold, _) = loaded(True, name), loaded(False, name)
    assert done == JOBS
    assert warm <= 12 and cold >= 40


def test_jobs_load_the_same_when_recipe_and_terms_are_the_same() -> None:
    def job(**more: object) -> str:
        return loads(Task(0, 0, {"prompt": "a duck", "recipe": "toybox", **more}))

    assert job(seed=1) == job(prompt="a car", settings={"stages.0.steps": 9})
    assert job() != job(recipe="oracle")
    assert job() != job(settings={"stages.0.terms.0.guidance.kind": "oracle"})
    assert loads(Task(0, 0, {"prompt": "a"})) != loads(Task(0, 0, {"prompt": "a", "image": "a.png"}))
