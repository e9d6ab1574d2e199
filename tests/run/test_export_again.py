# SPDX-License-Identifier: Apache-2.0
"""Exports say which step they show, none is written over by an older one, and none is left behind by a newer."""

from __future__ import annotations

import hashlib
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
from dreamlab.export.report import REPORT, entries, leftovers, merged, read_report
from dreamlab.export.staging import Staged, complete
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


def checkpoints(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in committed(run / "ckpt")[-1].iterdir()}


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
            arguments = ("cpu", ["export.formats=obj"]) if again is pipeline.export_again else ("cpu",)
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
    pipeline.export_again(Run(run), "cpu", ["export.formats=glb,obj,ply"])
    early, report = files(run), json.loads((run / "export" / "report.json").read_text())
    beside = ("model.mtl", "model_base_color.png")  # of the OBJ
    assert {name: entry["step"] for name, entry in report["files"].items()} == dict.fromkeys(
        ("model.glb", "model.obj", "model.ply", "check.png", "model_obj.zip", *beside), 6
    )
    pipeline.render_again(Run(run), "cpu")
    assert dreamlab("resume", str(run)).code == 0
    late, report = files(run), json.loads((run / "export" / "report.json").read_text())
    models = ("model.glb", "model.obj", "model.ply")
    assert all(late[name] != early[name] for name in models)
    assert {entry["step"] for entry in report["files"].values()} == {12}
    pictures = ("check.png", "contact.png", "turntable.mp4", "poster.png")
    assert set(report["files"]) == {*models, *beside, *pictures, "model_obj.zip"}
    pipeline.export_again(Run(run), "cpu", ["export.formats=ply"])  # the same step: what is there is right
    assert files(run) | {"report.json": late["report.json"]} == late
    assert f"export   model.obj ({len(late['model.obj'])} bytes, step 12)" in describe(run)


def test_pictures_of_a_material_go_with_it(tmp_path: Path) -> None:
    """A mesh that has lost its textures leaves no pictures behind that its OBJ would be taken to use; an export killed
    before it is whole takes none away."""
    old = {name: name.encode() for name in ("model.obj", "model.mtl", "model_base_color.png", "contact.png")}
    first = Staged(tmp_path)
    pictures = entries({"contact.png": old["contact.png"]}, 6, "pictures")
    models = {name: data for name, data in old.items() if name != "contact.png"}
    first.add(old | {REPORT: merged(tmp_path, entries(models, 6, "obj") | pictures)})
    first.commit()
    new = {"model.obj": b"new", "model.mtl": b"new"}
    gone = leftovers(tmp_path, ["obj"], new)
    second = Staged(tmp_path)
    second.add(new | {REPORT: merged(tmp_path, entries(new, 12, "obj"), gone)})
    assert (tmp_path / "model_base_color.png").is_file() and read_report(tmp_path)["files"]["model.obj"]["step"] == 6
    second.commit(gone)
    assert {path.name for path in tmp_path.iterdir()} == {"model.obj", "model.mtl", "contact.png", "report.json"}
    known = read_report(tmp_path)["files"]
    assert {name: entry["step"] for name, entry in known.items()} == {
        "contact.png": 6, "model.mtl": 12, "model.obj": 12
    }  # fmt: skip


def test_an_export_begins_by_finishing_the_last(tmp_path: Path) -> None:
    """Whose journal lies there: it was promised."""
    last = Staged(tmp_path)
    last.add({"model.glb": b"old"})
    (tmp_path / ".new.json").write_text(json.dumps({"move": ["model.glb"], "remove": []}))
    Staged(tmp_path).add({"model.obj": b"new"})
    assert (tmp_path / "model.glb").read_bytes() == b"old" and not (tmp_path / "model.obj").exists()


def test_an_export_killed_at_any_point_leaves_a_whole_set(dreamlab: Commands, finished_run: Path) -> None:
    """A real process is killed at every passage of every point; what lies there is the old set, or becomes the new one
    with the next command; the report's digests say which, and the run is never touched."""
    wanted = ("--formats", "obj,glb", "--texture", "0", "--faces")
    assert dreamlab("export", str(finished_run), *wanted, "300").code == 0
    before, state = files(finished_run), checkpoints(finished_run)
    assert dreamlab("export", str(finished_run), *wanted, "200").code == 0
    after = files(finished_run)
    assert after["model.obj"] != before["model.obj"]
    old, new = ({name: data for name, data in each.items() if name != "report.json"} for each in (before, after))
    seen = set()
    for where in ("staged:1", "staged:3", "before_journal", "after_journal", "moved:1", "moved:2"):
        run = shutil.copytree(finished_run, dreamlab.folder / where.replace(":", "-"))
        shutil.rmtree(run / "export")
        (run / "export").mkdir()
        for name, data in before.items():
            (run / "export" / name).write_bytes(data)
        ended = dreamlab("export", str(run), *wanted, "200", DREAMLAB_CRASH_AT=f"export.{where}")
        assert ended.code == -signal.SIGKILL, where
        complete(run / "export")
        found = files(run)
        told = json.loads(found.pop("report.json"))
        assert found in (old, new), where
        seen.add(found == new)
        for name, entry in told["files"].items():
            assert hashlib.sha256(found[name]).hexdigest() == entry["sha256"], (where, name)
        assert checkpoints(run) == state
    assert seen == {True, False}


def test_levels_of_an_earlier_step_are_no_format(dreamlab: Commands, tiny: Path) -> None:
    """They are written whenever anything is; those of a step that is over go."""
    ended = dreamlab("dream", PROMPT, "--recipe", str(tiny), DREAMLAB_CRASH_AT="ckpt.after_prune:2")
    assert ended.code == -signal.SIGKILL
    (run,) = (dreamlab.folder / "runs").iterdir()
    pipeline.export_again(Run(run), "cpu", ["export.levels=true", "export.preset=godot"])
    early = {path.name: path.read_bytes() for path in (run / "export").iterdir() if path.is_file()}
    assert "model_LOD1.glb" in early
    assert dreamlab("resume", str(run)).code == 0
    late = {path.name: path.read_bytes() for path in (run / "export").iterdir() if path.is_file()}
    for folder in (run / "export", run / "export" / "godot"):  # what was made for one program, too
        report = json.loads((folder / "report.json").read_text())
        assert {entry["step"] for entry in report["files"].values()} == {12}, folder
    assert not [name for name in late if "LOD" in name] and late["model.glb"] != early["model.glb"]


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
