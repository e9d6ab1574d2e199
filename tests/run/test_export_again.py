# SPDX-License-Identifier: Apache-2.0
"""Exports say which step they show, none is written over by an older one, and none is left behind by a newer."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamlab import pipeline
from dreamlab.cli.inspection import describe
from dreamlab.core.errors import InputError
from dreamlab.export.report import drop_leftovers, record
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run
from tests.conftest import Commands, artefacts

PROMPT = "a red mushroom with a white stem"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


LOST: dict[str, Callable[[Path], object]] = {
    "cut short": lambda newest: os.truncate(newest / "scene.safetensors", 100),
    "a bit": lambda newest: flip(newest / "scene.safetensors"),
    "no manifest": lambda newest: (newest / "MANIFEST").unlink(),
    "no scene": lambda newest: (newest / "scene.safetensors").unlink(),
    "meta": lambda newest: flip(newest / "meta.json"),
    "all of it": lambda newest: shutil.rmtree(newest),
}


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "export").iterdir()}


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_an_export_is_never_written_over_by_an_older_state(dreamlab: Commands, finished_run: Path) -> None:
    """Six ways to lose the newest checkpoint, with and without the report beside the export."""
    for way, lose in LOST.items():
        run = shutil.copytree(finished_run, dreamlab.folder / way)
        lose(committed(run / "ckpt")[-1])
        if way in ("a bit", "all of it"):
            (run / "export" / "report.json").unlink()
        before = files(run)
        for again in (pipeline.export_again, pipeline.render_again):
            arguments = ("cpu", ["obj"]) if again is pipeline.export_again else ("cpu",)
            with pytest.raises(InputError, match="shows step 12, and the newest whole checkpoint is of step 11"):
                again(Run(run), *arguments)  # type: ignore[operator]
        assert files(run) == before, way


def test_the_way_out_of_a_lost_checkpoint_makes_it_again(dreamlab: Commands, finished_run: Path) -> None:
    """And it is said on the terminal, where nobody reads a log."""
    before = artefacts(finished_run)
    flip(committed(finished_run / "ckpt")[-1] / "scene.safetensors")
    ended = dreamlab("export", str(finished_run))
    assert ended.code == 3 and "Make the lost steps again with: dreamlab resume" in ended.err
    assert "note: " in ended.err and "step_000012: damaged (scene.safetensors has changed" in ended.err
    assert "ckpt     step_000012.corrupt: damaged, set aside" in describe(finished_run)
    assert dreamlab("resume", str(finished_run)).code == 0 and artefacts(finished_run) == before


def test_files_of_an_earlier_step_are_made_again(dreamlab: Commands, tiny: Path) -> None:
    """A run is killed in its second stage, exported as it stands, and then finished: no format is left behind."""
    ended = dreamlab("dream", PROMPT, "--recipe", str(tiny), DREAMLAB_CRASH_AT="ckpt.after_prune:2")
    assert ended.code == -signal.SIGKILL
    (run,) = (dreamlab.folder / "runs").iterdir()
    pipeline.export_again(Run(run), "cpu", ["glb", "obj", "ply"])
    early, report = files(run), json.loads((run / "export" / "report.json").read_text())
    beside = ("model.mtl", "model_base_color.png")  # of the OBJ
    assert {name: entry["step"] for name, entry in report["files"].items()} == dict.fromkeys(
        ("model.glb", "model.obj", "model.ply", *beside), 6
    )
    pipeline.render_again(Run(run), "cpu")
    assert dreamlab("resume", str(run)).code == 0
    late, report = files(run), json.loads((run / "export" / "report.json").read_text())
    models = ("model.glb", "model.obj", "model.ply")
    assert all(late[name] != early[name] for name in models)
    assert {entry["step"] for entry in report["files"].values()} == {12}
    assert set(report["files"]) == {*models, *beside, "contact.png", "turntable.mp4"}
    pipeline.export_again(Run(run), "cpu", ["ply"])  # the same step: what is there is right
    assert files(run) == late
    assert f"export   model.obj ({len(late['model.obj'])} bytes, step 12)" in describe(run)


def test_pictures_of_a_material_go_with_it(tmp_path: Path) -> None:
    """A mesh that has lost its textures leaves no pictures behind that its OBJ would be taken to use."""
    for name in ("model.obj", "model.mtl", "model_base_color.png", "contact.png"):
        (tmp_path / name).write_text(name)
    record(tmp_path, list(tmp_path.iterdir()), 6)
    drop_leftovers(tmp_path, [tmp_path / "model.obj", tmp_path / "model.mtl"])
    assert {path.name for path in tmp_path.iterdir()} == {"model.obj", "model.mtl", "contact.png", "report.json"}


def test_inspect_says_what_is_damaged_and_what_was_killed(dreamlab: Commands, tiny: Path) -> None:
    ended = dreamlab("dream", PROMPT, "--recipe", str(tiny), DREAMLAB_CRASH_AT="ckpt.after_prune:2")
    assert ended.code == -signal.SIGKILL
    (run,) = (dreamlab.folder / "runs").iterdir()
    flip(run / "ckpt" / "step_000003" / "streams.safetensors")
    lines = describe(run)
    # Six steps are committed; the process died before it could say so.
    assert f"state    killed at step 3 or later, goes on from step_000006: dreamlab resume {run}" in lines
    assert "ckpt     step_000003 damaged: streams.safetensors has changed: its sha256 is another" in lines
    assert "ckpt     step_000006" in lines
    with Run(run).lock():
        assert "state    running at step 3" in describe(run)
