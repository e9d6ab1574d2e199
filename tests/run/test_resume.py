# SPDX-License-Identifier: Apache-2.0
"""Runs that are really killed end with the same bytes as a run that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from dreamlab.core.files import sha256
from dreamlab.run import crash
from dreamlab.run.checkpoint import committed
from tests.conftest import Commands, artefacts

PROMPT = "a red mushroom with a white stem"
LONG = ("stages.0.steps=150", "keeping.checkpoint=10")


def start(dreamlab: Commands, recipe: Path, **environment: str) -> tuple[int, str, Path]:
    ended = dreamlab("dream", PROMPT, "--recipe", str(recipe), "--out", "killed", **environment)
    (run,) = (dreamlab.folder / "killed").iterdir()
    return ended.code, ended.err, run


def finish(dreamlab: Commands, run: Path, **environment: str) -> dict[str, bytes]:
    ended = dreamlab("resume", str(run), **environment)
    assert ended.code == 0, ended.err
    return artefacts(run)


# 12 steps in two stages with a checkpoint every 3: steps 3, 6, 8 (stage end), 11, 12. `keep` is 2.
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("point", crash.POINTS)
def test_killed_at_every_crash_point(
    dreamlab: Commands, tiny: Path, golden: dict[str, bytes], point: str, count: int
) -> None:
    code, _, run = start(dreamlab, tiny, DREAMLAB_CRASH_AT=f"{point}:{count}")
    assert code == -signal.SIGKILL
    assert finish(dreamlab, run) == golden
    assert not list((run / "ckpt").glob(".tmp-*"))


def test_killed_again_and_again(dreamlab: Commands, tiny: Path, golden: dict[str, bytes]) -> None:
    """Each attempt dies at its first commit or the one after; every attempt still gains a checkpoint."""
    code, _, run = start(dreamlab, tiny, DREAMLAB_CRASH_AT="ckpt.after_rename:1")
    attempts = 1
    while code == -signal.SIGKILL:
        code = dreamlab("resume", str(run), DREAMLAB_CRASH_AT="ckpt.after_rename:1").code
        attempts += 1
        assert attempts < 10
    assert attempts == 6 and artefacts(run) == golden


def test_killed_at_random_moments(dreamlab: Commands, tiny: Path, golden_long: dict[str, bytes]) -> None:
    """Up to six times, at a random moment after the run got going; then it is left to end."""
    choose = random.Random(0)
    folder = dreamlab.folder / "killed"
    kills = 0
    for attempt in range(6):
        if attempt == 0:
            process, _, _ = dreamlab.start("dream", PROMPT, *LONG, "--recipe", str(tiny), "--out", "killed")
        else:
            (run,) = folder.iterdir()
            process, _, _ = dreamlab.start("resume", str(run))
        wait_for_events(folder, "start", attempt + 1)
        process.join(choose.uniform(0.0, 0.5))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    (run,) = folder.iterdir()
    assert finish(dreamlab, run) == golden_long
    assert kills >= 1


def test_two_threads_are_as_exact_as_one(dreamlab: Commands, tiny: Path) -> None:
    """More Gaussians and pixels than one block of work: two whole runs and a killed one, on two threads."""
    size = ("stages.0.scene.count=700", "stages.0.size=40", "stages.1.size=40")
    made = []
    for crash_at in ("", "", "ckpt.before_rename:3"):
        out = f"out{len(made)}"
        arguments = ("dream", PROMPT, *size, "--recipe", str(tiny), "--out", out)
        ended = dreamlab(*arguments, TEST_THREADS="2", DREAMLAB_CRASH_AT=crash_at)
        (run,) = (dreamlab.folder / out).iterdir()
        if crash_at:
            assert ended.code == -signal.SIGKILL
            ended = dreamlab("resume", str(run))  # one thread here: the run goes back to its two
        assert ended.code == 0, ended.err
        made.append(artefacts(run))
    assert made[0] == made[1] == made[2]


def test_resuming_a_finished_run_changes_nothing(dreamlab: Commands, finished_run: Path) -> None:
    before = artefacts(finished_run)
    assert finish(dreamlab, finished_run) == before


def test_a_corrupt_newest_checkpoint_costs_only_its_steps(
    dreamlab: Commands, tiny: Path, golden: dict[str, bytes]
) -> None:
    code, _, run = start(dreamlab, tiny, DREAMLAB_CRASH_AT="ckpt.after_prune:4")
    assert code == -signal.SIGKILL
    newest = committed(run / "ckpt")[-1]
    tensors = bytearray((newest / "scene.safetensors").read_bytes())
    tensors[-1] ^= 0x40
    (newest / "scene.safetensors").write_bytes(tensors)
    assert finish(dreamlab, run) == golden
    assert (run / "ckpt" / f"{newest.name}.corrupt").is_dir()
    assert newest.name in (run / "log.txt").read_text()


def test_a_checkpoint_of_another_recipe_is_refused(dreamlab: Commands, finished_run: Path) -> None:
    recipe = finished_run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seed: 0", "seed: 1"))
    ended = dreamlab("resume", str(finished_run))
    assert (
        ended.code == 3
        and "another recipe" in ended.err
        and "(seed differ)" in ended.err
        and "Traceback" not in ended.err
    )


def rewritten(newest: Path, old: str, new: str) -> None:
    """A checkpoint whose meta.json says something else, hashes and all."""
    meta = newest / "meta.json"
    text = meta.read_text()
    assert old in text
    meta.write_text(text.replace(old, new))
    manifest = json.loads((newest / "MANIFEST").read_text())
    manifest["files"]["meta.json"] = {"sha256": sha256(meta), "bytes": meta.stat().st_size}
    (newest / "MANIFEST").write_text(json.dumps(manifest))


def test_a_run_of_before_a_setting_was_there_goes_on(dreamlab: Commands, finished_run: Path) -> None:
    """Its checkpoint's recipe has no word of it: it was made by what that means when nobody gives it."""
    for newest in committed(finished_run / "ckpt"):
        rewritten(newest, '"backend": "auto",', "")
    ended = dreamlab("resume", str(finished_run))
    assert ended.code == 0, ended.err
    for newest in committed(finished_run / "ckpt"):
        rewritten(newest, '"count": 48', '"count": 49')
    ended = dreamlab("resume", str(finished_run))
    assert ended.code == 3 and "scene.count" in ended.err


def test_a_checkpoint_of_another_device_is_refused(dreamlab: Commands, finished_run: Path) -> None:
    """As a run of a GPU machine would look here: only the recorded device differs, hashes and all."""
    rewritten(committed(finished_run / "ckpt")[-1], '"device": "cpu"', '"device": "cuda"')
    ended = dreamlab("resume", str(finished_run))
    assert ended.code == 3 and "go on with --device cuda" in ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_one_signal_checkpoints_and_says_how_to_resume(
    dreamlab: Commands, tiny: Path, golden_long: dict[str, bytes], number: int, code: int
) -> None:
    process, _, err = dreamlab.start("dream", PROMPT, *LONG, "--recipe", str(tiny), "--out", "killed")
    run = wait_for_steps(dreamlab.folder / "killed", 4)
    os.kill(process.pid, number)  # type: ignore[arg-type]
    process.join(60)
    assert process.exitcode == code
    assert f"Resume: dreamlab resume killed/{run.name}" in err.read_text()
    assert "Traceback" not in err.read_text()
    assert '"state": "interrupted"' in (run / "state.json").read_text()
    assert finish(dreamlab, run) == golden_long


def test_a_second_ctrl_c_stops_at_once(dreamlab: Commands, tiny: Path, golden_long: dict[str, bytes]) -> None:
    process, _, _ = dreamlab.start("dream", PROMPT, *LONG, "--recipe", str(tiny), "--out", "killed")
    run = wait_for_steps(dreamlab.folder / "killed", 4)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)  # type: ignore[arg-type]
    process.join(60)
    assert process.exitcode == 130
    assert finish(dreamlab, run) == golden_long


def wait_for_steps(folder: Path, steps: int) -> Path:
    """Until the run in `folder` has logged metrics for `steps` steps (it logs every second one)."""
    return wait_for_events(folder, "metrics", steps // 2)


def wait_for_events(folder: Path, kind: str, count: int) -> Path:
    """Until the one run in `folder` has `count` events of a kind."""
    for _ in range(6000):
        runs = list(folder.iterdir()) if folder.exists() else []
        events = runs[0] / "events.jsonl" if runs else folder
        if events.is_file() and events.read_text().count(f'"kind": "{kind}"') >= count:
            return runs[0]
        time.sleep(0.01)
    raise AssertionError("the run does not get going")


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run of the tiny recipe leaves."""
    return undisturbed(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def golden_long(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return undisturbed(tmp_path_factory.mktemp("golden_long"), *LONG)


def undisturbed(folder: Path, *overrides: str) -> dict[str, bytes]:
    from tests.conftest import TINY

    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY)
    ended = Commands(folder)("dream", PROMPT, *overrides, "--recipe", str(recipe))
    assert ended.code == 0, ended.err
    return artefacts(folder / ended.out.splitlines()[-1])
