# SPDX-License-Identifier: Apache-2.0
"""Jobs that are asked to stop: in ten seconds, with what they have made, and to go on from there if wanted."""

from __future__ import annotations

import os
import signal

import pytest

from dreamlab.run.checkpoint import committed
from tests.conftest import artefacts
from tests.jobs.conftest import STEPS
from tests.jobs.office import Office, report

pytestmark = pytest.mark.slow
PROMISED_S = 10.0


def test_cancel_in_every_state_and_take_up_again(office: Office, undisturbed: dict[str, bytes]) -> None:
    running, waiting = office.add(), office.add("seed=9")
    assert office.queue.cancel(waiting.id).state == "cancelled", "at once"
    office.open()
    worker = office.hold(running, 20)
    assert office.queue.cancel(running.id).state == "running"
    os.kill(worker.pid, signal.SIGCONT)
    office.until_state(running, "cancelled", within=PROMISED_S)
    stopped = office.queue.job(running.id)
    assert office.queue.cancel(running.id) == stopped, "again: nothing"
    assert office.worker() == worker, "it heeded, and works on"
    step = office.run(running).state()["step"]
    assert 20 <= step < STEPS
    assert office.made(running) == step, "what was made is kept"
    assert office.until_state(waiting, "cancelled").attempt == 0
    office.queue.retry(running.id)
    ended = office.until_state(running, "succeeded")
    assert (ended.attempt, office.queue.cancel(running.id).state) == (2, "succeeded")
    assert artefacts(office.run(running).path) == undisturbed


def test_a_worker_that_does_not_heed_is_killed_in_time(office: Office) -> None:
    job = office.add()
    office.open()
    frozen = office.hold(job, 20)
    office.queue.cancel(job.id)
    took = office.until(lambda: office.queue.job(job.id).state == "cancelled", within=PROMISED_S)
    assert took > 5, "it was given time"
    assert not frozen.alive()
    assert committed(office.run(job).ckpt)
    other = office.add("steps=2", "seed=2")
    office.until_state(other, "succeeded")


def test_stop_and_keep(office: Office, undisturbed: dict[str, bytes]) -> None:
    job = office.add()
    office.open()
    worker = office.hold(job, 20)
    office.queue.cancel(job.id, keep=True)
    os.kill(worker.pid, signal.SIGCONT)
    ended = office.until_state(job, "succeeded")
    assert ended.stopped_at is not None
    assert 20 <= ended.stopped_at < STEPS
    assert ended.error is None
    assert office.worker() == worker
    run = office.run(job)
    assert (run.state()["state"], run.state()["step"]) == ("succeeded", ended.stopped_at)
    assert {path.name for path in run.export.iterdir()} >= {"model.glb", "contact.png"}
    assert {entry["step"] for entry in report(run)["files"].values()} == {ended.stopped_at}
    from dreamlab import pipeline
    from tests.conftest import threads

    with threads(1):
        pipeline.execute(run)  # `resume`: to the end after all
    assert artefacts(run.path) == undisturbed
