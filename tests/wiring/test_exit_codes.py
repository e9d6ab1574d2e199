# SPDX-License-Identifier: Apache-2.0
"""The exit codes a queue relies on, each from a real process that met the real thing, and what is left behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Commands, Finished, _command

PROMPT = "a red mushroom with a white stem"


def _limited(limits: dict[int, int], *arguments: object) -> None:
    for what, value in limits.items():
        resource.setrlimit(what, (value, value))
    _command(*arguments)  # type: ignore[arg-type]


def limited(commands: Commands, limits: dict[int, int], *arguments: str) -> Finished:
    """A command in a process whose resources are limited from its first moment."""
    out, err = commands.folder / "limited-out.txt", commands.folder / "limited-err.txt"
    process = commands.context.Process(
        target=_limited, args=(limits, list(arguments), {}, str(commands.folder), str(out), str(err))
    )
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode is not None, "the command hangs"
    return Finished(process.exitcode, out.read_text(), err.read_text())


def one_line(ended: Finished, code: int) -> str:
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err and ended.err.count("error:") == 1
    return next(line for line in ended.err.splitlines() if line.startswith("error:"))


def state(commands: Commands, out: str = "runs") -> dict[str, object]:
    (run,) = (commands.folder / out).iterdir()
    found: dict[str, object] = json.loads((run / "state.json").read_text())
    return found


def test_2_a_recipe_that_cannot_be_meant_leaves_nothing(dreamlab: Commands, tiny: Path) -> None:
    one_line(dreamlab("dream", PROMPT, "stages.0.steps=-1", "--recipe", str(tiny)), 2)
    one_line(dreamlab("dream", PROMPT, "stages.0.terms.0.system.kind=sd", "--recipe", str(tiny)), 2)
    assert not (dreamlab.folder / "runs").exists()


def test_3_an_input_that_cannot_be_used(dreamlab: Commands, tiny: Path) -> None:
    one_line(dreamlab("resume", "nowhere"), 3)
    one_line(dreamlab("dream", "a zyzzyva mushroom", "--recipe", str(tiny)), 3)


def test_4_a_model_that_is_not_there_or_damaged(dreamlab: Commands, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    guidance = f"stages.0.terms.0.guidance={{kind: toybox, weights: {tmp_path / 'weights'}}}"
    one_line(dreamlab("dream", PROMPT, guidance, "--recipe", str(tiny)), 4)
    (tmp_path / "weights" / "config.json").write_text("{")
    one_line(dreamlab("dream", PROMPT, guidance, "--recipe", str(tiny), "--out", "again"), 4)


def test_5_memory_ran_out(dreamlab: Commands, tiny: Path) -> None:
    """64 pictures of 2048 x 2048 take 3 GiB a copy, and this process may have 4 in all."""
    big = ("stages.0.views=64", "stages.0.size=2048")
    one_line(limited(dreamlab, {resource.RLIMIT_AS: 4 << 30}, "dream", PROMPT, *big, "--recipe", str(tiny)), 5)
    assert state(dreamlab)["state"] == "failed"


def test_6_an_optimisation_that_does_not_stay_finite(dreamlab: Commands, tiny: Path) -> None:
    rates = [f"stages.0.scene.lr_{name}=1e30" for name in ("means", "scales", "quats")]
    few = ("guard.skips=2", "guard.rollbacks=0", "keeping.log=1")
    one_line(dreamlab("dream", PROMPT, *rates, *few, "--recipe", str(tiny)), 6)
    assert state(dreamlab)["state"] == "failed"


def test_7_a_disk_that_takes_no_more_and_what_was_there_goes_on(dreamlab: Commands, tiny: Path) -> None:
    """Files may grow to 6 kB: the recipe fits, a checkpoint does not. With room again the run resumes."""
    size = "stages.0.scene.count=400"
    limits = {resource.RLIMIT_FSIZE: 6000}
    one_line(limited(dreamlab, limits, "dream", PROMPT, size, "--recipe", str(tiny)), 7)
    assert state(dreamlab)["state"] == "failed"
    (run,) = (dreamlab.folder / "runs").iterdir()
    ended = dreamlab("resume", str(run))
    assert ended.code == 0, ended.err
    assert state(dreamlab)["state"] == "succeeded"


def test_7_too_when_it_is_the_diary_that_does_not_fit(dreamlab: Commands, tiny: Path) -> None:
    """No checkpoint in between: the first write that is refused is a line of events.jsonl."""
    long = ("stages.0.steps=3000", "keeping.log=1", "keeping.checkpoint=100000", "keeping.preview=100000")
    ended = limited(dreamlab, {resource.RLIMIT_FSIZE: 6000}, "dream", PROMPT, *long, "--recipe", str(tiny))
    one_line(ended, 7)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_75_and_130_a_run_that_was_stopped_can_go_on(dreamlab: Commands, tiny: Path, number: int, code: int) -> None:
    """The signal comes once the loop turns; the checkpoint of that very step is there afterwards."""
    process, _, err = dreamlab.start("dream", PROMPT, "stages.0.steps=100000", "--recipe", str(tiny))
    for _ in range(1200):
        if list((dreamlab.folder / "runs").glob("*/ckpt/step_*")):
            break
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code, err.read_text()
    found = state(dreamlab)
    (run,) = (dreamlab.folder / "runs").iterdir()
    assert found["state"] == "interrupted" and (run / "ckpt" / f"step_{found['step']:06d}").is_dir()
    assert "Traceback" not in err.read_text() and "dreamlab resume" in err.read_text()
