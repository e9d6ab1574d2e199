# SPDX-License-Identifier: Apache-2.0
"""However a run ends, its folder says so, the user gets one line, and the process is left as it was."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cuda_ext import backend
from dreamlab import pipeline, recipe
from dreamlab.cli.inspection import describe
from dreamlab.core.errors import DiskError, DreamError, InputError, OutOfMemory, RecipeError
from dreamlab.core.files import disk_errors, sha256
from dreamlab.recipe.tables import TABLES
from dreamlab.run import determinism
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run
from dreamlab.run.preview import save_video
from tests.conftest import TINY, Commands, artefacts, threads

PROMPT = "a red mushroom with a white stem"


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Run:
    return pipeline.create(PROMPT, tiny, tmp_path / "runs", [], None, [])


KINDS = {
    "recipe": (RecipeError("two things do not go together"), RecipeError),
    "value": (ValueError("expected 4 channels"), ValueError),
    "name": (KeyError("weights"), KeyError),
    "claim": (AssertionError("never"), AssertionError),
    "memory": (RuntimeError("cannot allocate memory"), OutOfMemory),
    "torch": (RuntimeError("shapes differ"), RuntimeError),
    "disk": (OSError(errno.ENOSPC, "No space left on device"), DiskError),
    "file": (FileNotFoundError(errno.ENOENT, "No such file or directory"), FileNotFoundError),
}


@pytest.mark.parametrize("kind", KINDS)
def test_failures_of_every_kind_are_recorded(run: Run, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    raised, seen = KINDS[kind]

    def fails(*given: object) -> None:
        raise raised

    monkeypatch.setattr(pipeline, "train", fails)
    with pytest.raises(seen):
        pipeline.execute(run)
    state = run.state()
    assert state["state"] == "failed" and str(raised.args[-1]) in state["error"]
    assert run.events()[-1]["kind"] == "failed"


def test_so_are_those_before_the_first_step(run: Run) -> None:
    run.recipe_path().write_text("stages: [")
    with pytest.raises(RecipeError):
        pipeline.execute(run)
    assert run.state()["state"] == "failed"


def test_whoever_is_refused_the_lock_changes_nothing(run: Run) -> None:
    with run.lock(), pytest.raises(InputError, match="in use by"):
        pipeline.execute(Run(run.path))
    assert run.state()["state"] == "created"


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_run_leaves_the_process_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """Thread count and determinism hold inside, not after."""
    inside: list[tuple[int, bool]] = []

    def looks(*given: object) -> None:
        inside.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        if ends == "badly":
            raise ValueError
        raise DreamError

    run.set_state(threads=1)
    monkeypatch.setattr(pipeline, "train", looks)
    with threads(2):
        assert not torch.are_deterministic_algorithms_enabled()
        with pytest.raises((ValueError, DreamError)):
            pipeline.execute(run)
        assert inside == [(1, True)]
        assert torch.get_num_threads() == 2 and not torch.are_deterministic_algorithms_enabled()


def test_a_new_run_takes_the_threads_that_are_chosen_for_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside, in its state, and said once; a run that has begun is not asked again."""
    inside: list[int] = []

    def looks(*given: object) -> None:
        inside.append(torch.get_num_threads())
        raise DreamError

    monkeypatch.setattr(pipeline, "train", looks)
    monkeypatch.setattr(determinism, "choose", lambda most: (1, f"1 thread of {most}: busy"))
    with threads(2):
        with pytest.raises(DreamError), pytest.warns(UserWarning, match="1 thread of 2: busy"):
            pipeline.execute(run)
        monkeypatch.setattr(determinism, "choose", None)
        with pytest.raises(DreamError):
            pipeline.execute(run)
        assert torch.get_num_threads() == 2
    assert (
        inside == [1, 1] and run.state()["threads"] == 1 and "1 thread of 2: busy" in (run.path / "log.txt").read_text()
    )


def test_exporting_again_leaves_the_process_as_it_was(finished_run: Path) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        pipeline.export_again(Run(finished_run), "cpu")
        pipeline.render_again(Run(finished_run), "cpu")
        assert torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_run_folder_that_is_removed_is_said_and_does_not_come_back(dreamlab: Commands, tiny: Path) -> None:
    process, _, err = dreamlab.start("dream", PROMPT, "stages.0.steps=100000", "--recipe", str(tiny))
    out = dreamlab.folder / "runs"
    while not (out.is_dir() and list(out.glob("*/ckpt/step_*"))):
        time.sleep(0.02)
    (run,) = out.iterdir()
    run.rename(dreamlab.folder / "elsewhere")
    process.join(60)
    said = [line for line in err.read_text().splitlines() if line.startswith("error:")]
    assert process.exitcode == 3 and len(said) == 1 and "was removed or moved while it was in use" in said[0]
    assert not list(out.iterdir())


def broken_ffmpeg(path: Path, program: str | None) -> Path:
    path.write_text(f"#!/bin/sh\ncat > /dev/null\n{program or ''}\n")
    path.chmod(0o644 if program is None else 0o755)
    return path


@pytest.mark.parametrize(("program", "words"), [("exit 1", "failed"), ("exit 0", "wrote nothing"), (None, "started")])
def test_a_broken_ffmpeg_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, words: str
) -> None:
    broken = broken_ffmpeg(tmp_path / "ffmpeg", program)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    with pytest.raises(InputError, match=f"{words}.*IMAGEIO_FFMPEG_EXE") as caught:
        save_video(iter([np.zeros((4, 4, 3), np.uint8)]), tmp_path / "turntable.mp4", 4)
    assert "ffmpeg" in str(caught.value) and "space" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == [broken]


def test_without_a_video_all_else_is_there(dreamlab: Commands, tiny: Path) -> None:
    broken = broken_ffmpeg(dreamlab.folder / "ffmpeg", None)
    ended = dreamlab("dream", PROMPT, "--recipe", str(tiny), IMAGEIO_FFMPEG_EXE=str(broken))
    assert ended.code == 3 and "cannot be started" in ended.err and ended.err.count("error:") == 1
    (run,) = (dreamlab.folder / "runs").iterdir()
    assert (run / "export" / "model.glb").is_file() and (run / "export" / "contact.png").is_file()
    assert json.loads((run / "state.json").read_text())["state"] == "failed"
    assert dreamlab("resume", str(run)).code == 0


def test_damaged_notes_of_a_run_come_with_a_way_out(dreamlab: Commands, finished_run: Path) -> None:
    before = artefacts(finished_run)
    run, damages = Run(finished_run), ("", "[1]", "[" * 100_000)
    for damage in damages:
        (finished_run / "state.json").write_text(damage)
        with pytest.raises(InputError, match=r"state.json: is damaged .*; remove it, then: dreamlab resume"):
            pipeline.execute(run)
    (finished_run / "state.json").unlink()
    assert dreamlab("resume", str(finished_run)).code == 0 and artefacts(finished_run) == before
    for damage in damages:
        (finished_run / "spec.json").write_text(damage)
        with pytest.raises(InputError, match=r"spec.json: is damaged .*; only `inspect` needs it, and {} will do"):
            describe(finished_run)
    (finished_run / "spec.json").write_text("{}")
    assert "state    succeeded at step 12" in describe(finished_run)


def rewritten(run: Path, **changes: object) -> None:
    """The newest checkpoint says something else, and its hashes are right."""
    newest = committed(run / "ckpt")[-1]
    meta = json.loads((newest / "meta.json").read_text()) | changes
    (newest / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    hashed(newest)


def hashed(checkpoint: Path) -> None:
    files = [path for path in checkpoint.iterdir() if path.name != "MANIFEST"]
    entries = {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in files}
    (checkpoint / "MANIFEST").write_text(json.dumps({"files": entries}))


def in_place_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


def scene_of(run: Path) -> Path:
    return committed(run / "ckpt")[-1] / "scene.safetensors"


NOTHING = "nothing that a run can go on from"
HURT: dict[str, tuple[Callable[[Path], object], str]] = {
    "threads": (
        lambda run: (run / "state.json").write_text('{"threads": "two"}'),
        "damaged .threads is 'two'.",
    ),
    "progress": (lambda run: (run / "state.json").write_text('{"rate_scale": null}'), "damaged .rate_scale is None."),
    "no checkpoint": (lambda run: shutil.rmtree(run / "ckpt"), "holds no checkpoint, and the run had come to step 12"),
    "events": (lambda run: in_place_of(run / "events.jsonl"), "events.jsonl: .*move that away"),
    "log": (lambda run: in_place_of(run / "log.txt"), "log.txt: .*move that away"),
    "lock": (lambda run: in_place_of(run / ".lock"), "lock: .*move that away"),
    "stage": (lambda run: rewritten(run, stage=9), NOTHING),
    "words": (lambda run: rewritten(run, step="three"), NOTHING),
    "no recipe": (lambda run: rewritten(run, recipe=None), NOTHING),
    "no scene": (lambda run: (scene_of(run).unlink(), hashed(scene_of(run).parent)), NOTHING),
}


@pytest.mark.parametrize("what", HURT)
def test_a_hurt_run_folder_is_one_line(finished_folder: Path, tmp_path: Path, what: str) -> None:
    """Whatever lies in the folder: no error but ours leaves, and a run never silently starts again at 0."""
    hurt, words = HURT[what]
    run = shutil.copytree(finished_folder, tmp_path / "run")
    hurt(run)
    with pytest.raises(DreamError, match=words) as caught:
        pipeline.execute(Run(run))
    assert "\n" not in str(caught.value)
    with contextlib.suppress(DreamError):
        pipeline.export_again(Run(run), "cpu", ["export.formats=ply"])


def test_lines_of_others_among_the_events_are_passed_over(finished_folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_folder, tmp_path / "run")
    (run / "events.jsonl").write_bytes(b'\xff\xfe\n[1]\n7\n{"kind": 3}\n{"kind": "became"}\n{"kind": "start"}\n{"ki')
    assert [event["kind"] for event in Run(run).events()] == ["became", "start"]
    assert pipeline.export_again(Run(run), "cpu", ["export.formats=ply"])


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a second, for copies that are then hurt."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    run = pipeline.create(PROMPT, folder / "tiny.yaml", folder, [], None, [])
    with threads(1):
        pipeline.execute(run)
    return run.path


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "allow writing"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.ENOENT, "still there"),
    ],
)
def test_a_refused_write_says_what_would_help(number: int, words: str) -> None:
    with pytest.raises(DiskError, match=words) as caught, disk_errors("writing", Path("there")):
        raise OSError(number, os.strerror(number))
    assert ("space" in str(caught.value)) is (number == errno.ENOSPC)


def test_a_name_that_no_encoding_has_is_taken_as_it_is(dreamlab: Commands, tiny: Path) -> None:
    """Names of files are bytes. These are no UTF-8, and the last line is still the folder, byte for byte."""
    out = os.fsdecode(b"b\xff\xfeck")
    process, said, err = dreamlab.start("dream", PROMPT, "--recipe", str(tiny), "--out", out)
    process.join(60)
    assert process.exitcode == 0, err.read_bytes()
    folder = dreamlab.folder / os.fsdecode(said.read_bytes().splitlines()[-1])
    assert (folder / "export" / "model.glb").is_file()
    assert json.loads((folder / "spec.json").read_text())["prompt"] == PROMPT


def test_a_terminal_that_lacks_a_letter_gets_its_bytes(dreamlab: Commands, finished_run: Path) -> None:
    """No failure after all the work."""
    named = dreamlab.folder / "grün"
    finished_run.rename(named)
    child = [sys.executable, "-m", "dreamlab", "render", str(named)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(child, capture_output=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    assert Path(os.fsdecode(ended.stdout.splitlines()[-1])) == named / "export" / "turntable.mp4"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_standard_output_is_said(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("PYTHONUNBUFFERED", None)  # what is printed waits in a buffer, and the exit would fail once more
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "dreamlab", "show", "recipe", "toybox"],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False,
        )  # fmt: skip
    assert ended.returncode == 7
    assert ended.stderr.startswith("error: standard output or a file: cannot be written (No space left on device)")
    assert ended.stderr.count("\n") == 1


def test_a_run_says_whose_code_runs_it_once_and_keeps_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's licence is heard once in a process, kept in the log of every run, and its name in the recipe."""
    wanted = recipe.load(TINY.replace("count: 48", "count: 48, backend: gsplat"), TABLES)
    assert "backend: gsplat" in recipe.dump(wanted)
    backend.name_licence.cache_clear()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        pipeline.name_packages(run, wanted)
        pipeline.name_packages(run, wanted)
        pipeline.name_packages(run, recipe.load(TINY, TABLES))
    backend.name_licence.cache_clear()
    assert [str(each.message) for each in heard] == ["gsplat runs splat; its licence: Apache-2.0"]
    assert (run.path / "log.txt").read_text().count("gsplat runs splat; its licence: Apache-2.0") == 2
