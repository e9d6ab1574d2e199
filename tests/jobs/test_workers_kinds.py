# SPDX-License-Identifier: Apache-2.0
"""One worker does jobs of every kind, one after the other, as the command line would."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dreamlab import pipeline
from dreamlab.jobs.making import make
from dreamlab.jobs.requests import BranchRequest, ContinueRequest, ExportRequest
from dreamlab.jobs.states import Job
from dreamlab.run.folder import Run
from tests.conftest import artefacts, threads
from tests.intake.painting import PAINTING
from tests.jobs.conftest import STEPS
from tests.jobs.office import Office, report

CUBE = """v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
f 1 4 3 2
f 5 6 7 8
f 1 2 6 5
f 3 4 8 7
f 2 3 7 6
f 1 5 8 4
"""


@pytest.mark.slow
def test_every_kind_in_one_resident_process(office: Office, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    dream = office.add()
    (tmp_path / "cube.obj").write_text(CUBE)
    (tmp_path / "paint.yaml").write_text(PAINTING)
    painting = pipeline.create_painting(
        "a red mushroom", tmp_path / "cube.obj", tmp_path / "paint.yaml", office.root, [], None, []
    )
    texture = office.queue.submit(Job(id=painting.spec()["id"], kind="texture", run=painting.path.name))
    office.open()
    office.until_state(dream, "succeeded")
    worker = office.worker()
    assert artefacts(office.run(dream).path) == undisturbed
    assert (office.run(dream).previews / "truth.png").is_file(), "jobs are watched"
    before = office.run(dream).recipe_path().read_bytes()
    (more,) = make(office.queue, ContinueRequest(steps=5), "local", "", parent=office.queue.job(dream.id))
    (other,) = make(
        office.queue, BranchRequest(steps=5, prompt="a blue mushroom"), "local", "", parent=office.queue.job(dream.id)
    )
    (files,) = make(
        office.queue, ExportRequest(formats=("ply",), faces=100), "local", "", parent=office.queue.job(dream.id)
    )
    ended = [office.until_state(job, "succeeded", "failed") for job in (texture, more, other, files)]
    assert [job.state for job in ended] == ["succeeded"] * 4, office.story()
    assert office.worker() == worker, "all by one process"
    assert (painting.path / "painted" / "cube.obj").is_file()
    assert (office.run(dream).export / "model.ply").is_file()
    assert office.run(dream).recipe_path().read_bytes() == before, "the parent stays as it is"
    assert report(office.run(more))["files"]["model.glb"]["step"] == STEPS + 5
    assert office.run(other).spec()["prompt"] == "a blue mushroom"
    with threads(1):  # the same by hand, in another process than the worker
        alone = pipeline.branch(office.run(dream), tmp_path / "alone", [f"stages.0.steps={STEPS + 5}"], [])
        pipeline.execute(alone)
    assert artefacts(alone.path) == artefacts(office.run(more).path)


@pytest.mark.slow
def test_an_export_that_cannot_be_ends_with_its_reason_and_leaves_the_run_alone(office: Office) -> None:
    """And a run in the hands of a person is waited for, then said."""
    job = office.add("steps=2")
    office.open()
    office.until_state(job, "succeeded")
    run = office.run(job)
    shown = {path.name: path.read_bytes() for path in run.export.iterdir()}
    wrong = office.queue.submit(Job(id="wrongexport0", kind="export", run=job.run, request={"formats": ["nonsense"]}))
    ended = office.until_state(wrong, "failed")
    assert ended.error is not None
    assert (ended.exit_code, ended.error.code) == (2, "recipe")
    assert "nonsense" in ended.error.message
    assert {path.name: path.read_bytes() for path in run.export.iterdir()} == shown
    assert run.state()["state"] == "succeeded"
    gone = office.queue.submit(Job(id="nosuchrun000", kind="export", run="no-such-run"))
    assert office.until_state(gone, "failed").exit_code == 3
    with Run(run.path).lock():
        held = office.queue.submit(Job(id="heldexport00", kind="export", run=job.run, request={"formats": ["ply"]}))
        office.until_state(held, "running")
        time.sleep(1)
        assert office.queue.job(held.id).state == "running"
    assert office.until_state(held, "succeeded").exit_code == 0
    assert json.loads((run.path / "state.json").read_text())["state"] == "succeeded"
