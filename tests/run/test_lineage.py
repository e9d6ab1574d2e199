# SPDX-License-Identifier: Apache-2.0
"""Finished runs that go on, and runs that branch off others: with real processes, real folders, real kills."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamlab import pipeline
from dreamlab.core.errors import DreamError, InputError, RecipeError
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run
from dreamlab.run.train import Tick
from systems.engine.trained import Trained
from tests.conftest import Commands, artefacts

PROMPT = "a red mushroom with a white stem"


def scene_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(committed(run / "ckpt")[-1] / "scene.safetensors")


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_finished_run_goes_on_with_more_steps(dreamlab: Commands, finished_run: Path) -> None:
    """Left alone, or killed on the way and resumed without a word of the steps: they are in its recipe."""
    killed = shutil.copytree(finished_run, dreamlab.folder / "killed" / finished_run.name)
    before = artefacts(finished_run)
    ended = dreamlab("resume", str(finished_run), "--steps", "9")
    assert ended.code == 0, ended.err
    assert "steps: 9" in (finished_run / "recipe.yaml").read_text()
    state = json.loads((finished_run / "state.json").read_text())
    assert (state["state"], state["step"]) == ("succeeded", 17)
    report = json.loads((finished_run / "export" / "report.json").read_text())
    assert {entry["step"] for entry in report["files"].values()} == {17}
    longer = artefacts(finished_run)
    assert longer["model.glb"] != before["model.glb"]
    died = dreamlab("resume", str(killed), "--steps", "9", DREAMLAB_CRASH_AT="ckpt.after_prune:1")
    assert died.code == -signal.SIGKILL
    assert dreamlab("resume", str(killed)).code == 0 and artefacts(killed) == longer
    again = dreamlab("resume", str(finished_run), "--steps", "9")
    assert again.code == 0 and artefacts(finished_run) == longer


def test_schedules_follow_the_new_total(finished_run: Path) -> None:
    """Steps that are made cannot be taken back; what is added lies on the schedules of the longer stage."""
    run, before = Run(finished_run), contents(finished_run)
    with pytest.raises(RecipeError, match=r"--steps 3: stage 'finer' has made 4 steps already"):
        pipeline.extend(run, 3)
    with pytest.raises(DreamError):
        pipeline.extend(run, 1_000_000_000)
    assert contents(finished_run) | {".lock": b""} == before | {".lock": b""}
    pipeline.extend(run, 8)
    ticks: list[Tick] = []
    pipeline.execute(run, on_tick=ticks.append)
    assert [(tick.step, tick.steps, tick.done, tick.total) for tick in ticks] == [(6, 8, 14, 16), (8, 8, 16, 16)]


CHANGES = ("stages.finer.steps=9", "stages.finer.scene.lr_means=0")


def test_a_branch_starts_where_its_parent_stands(dreamlab: Commands, finished_run: Path) -> None:
    """With other settings for what is to come: here the points stay and the colours go on. The parent is left alone."""
    before, stood = contents(finished_run), scene_of(finished_run)
    ended = dreamlab("branch", str(finished_run), *CHANGES, "--out", "branches")
    assert ended.code == 0, ended.err
    branch = dreamlab.folder / ended.out.splitlines()[-1]
    assert branch.parent == dreamlab.folder / "branches"
    assert contents(finished_run) == before
    now = scene_of(branch)
    assert torch.equal(now["means"], stood["means"]) and not torch.equal(now["logit_color"], stood["logit_color"])
    spec, parent = (json.loads((run / "spec.json").read_text()) for run in (branch, finished_run))
    assert spec["parent"] == {"run": str(finished_run), "id": parent["id"], "step": 12} and spec["id"] != parent["id"]
    assert json.loads((branch / "state.json").read_text())["step"] == 17
    died = dreamlab("branch", str(finished_run), *CHANGES, "--out", "killed", DREAMLAB_CRASH_AT="ckpt.before_rename:3")
    assert died.code == -signal.SIGKILL
    (killed,) = (dreamlab.folder / "killed").iterdir()
    assert dreamlab("resume", str(killed)).code == 0 and artefacts(killed) == artefacts(branch)


def test_a_branch_that_was_cut_short_is_no_run_that_has_not_begun(dreamlab: Commands, finished_run: Path) -> None:
    died = dreamlab("branch", str(finished_run), *CHANGES, "--out", "cut", DREAMLAB_CRASH_AT="ckpt.before_rename:1")
    assert died.code == -signal.SIGKILL
    (cut,) = (dreamlab.folder / "cut").iterdir()
    with pytest.raises(InputError, match="not a run folder"):
        Run.open(cut)


REFUSED = {
    "image.elevation_deg: a branch cannot change it": ["image.elevation_deg=3"],
    "a change would do nothing; give it more": ["seed=3"],
    "stages.0.steps: a change would do nothing, this stage is done": ["stages.shape.steps=9"],
    "its 4 steps are made, so a change would do nothing": ["stages.finer.size=20"],
    "stages.1.steps: 4 are made already, 3 are fewer": ["stages.finer.steps=3"],
    "with another shape, log_scales [99, 3] instead of": ["stages.finer.steps=9", "stages.finer.scene.count=99"],
    "stages.1.scene.kind: a branch goes on with": ["stages.finer.scene={kind: dmtet, from: shape}"],
    "stages.1.particles: a branch goes on with": ["stages.finer.steps=9", "stages.finer.particles=2"],
}


def test_changes_that_would_do_nothing_or_belie_the_past(finished_run: Path) -> None:
    for words, changes in REFUSED.items():
        with pytest.raises(RecipeError, match=re.escape(words)):
            pipeline.branch(Run(finished_run), None, changes, [])
        assert list(finished_run.parent.iterdir()) == [finished_run]


def test_a_branch_from_an_earlier_step_with_other_words(dreamlab: Commands, finished_run: Path) -> None:
    first = committed(finished_run / "ckpt")[0]
    step = str(int(first.name[5:]))
    words = ("branch", str(finished_run), "--step", step, "--prompt", "a blue mushroom", "--out", "others")
    ended = dreamlab(*words)
    assert ended.code == 0, ended.err
    made = Path(ended.out.splitlines()[-1])
    made = made if made.is_absolute() else dreamlab.folder / made
    assert pipeline.load_recipe(Run(made)).prompt == "a blue mushroom"
    assert json.loads((made / "spec.json").read_text())["parent"]["step"] == int(step)
    assert "keeps no checkpoint of step 1; it has" in dreamlab("branch", str(finished_run), "--step", "1").err


def test_a_branch_before_a_stage_may_change_all_of_it(dreamlab: Commands, tiny: Path) -> None:
    died = dreamlab("dream", PROMPT, "--recipe", str(tiny), DREAMLAB_CRASH_AT="ckpt.after_prune:2")
    assert died.code == -signal.SIGKILL
    (run,) = (dreamlab.folder / "runs").iterdir()
    made = pipeline.branch(Run(run), None, ["stages.finer.scene={kind: dmtet, from: shape, resolution: 8}"], [])
    assert made.path.parent == run.parent
    assert {path.name for path in pipeline.execute(made)} >= {"model.glb"}
    assert "sdf" in scene_of(made.path)


def test_a_network_of_another_shape_is_said() -> None:
    with pytest.raises(InputError, match="has 5 weights and the checkpoint holds 4"):
        Trained({"w": torch.zeros(5)}).load_state_dict(Trained({"w": torch.zeros(4)}).state_dict())


def test_a_run_of_before_goes_on_with_other_exports(finished_run: Path) -> None:
    """A recipe that says other things of what is written, or says nothing of settings that came later: the scene it
    has trained is the same, so it is exported again."""
    recipe = finished_run / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(re.sub(r"^  (preset|levels|provenance|texture): .*\n", "", text, flags=re.M))
    meta = json.loads((committed(finished_run / "ckpt")[-1] / "meta.json").read_text())
    assert meta["recipe"]["export"]["texture"] == 0, "what it was trained with says something else"
    paths = pipeline.export_again(Run(finished_run), "cpu", ["export.texture=0", "export.formats=stl"])
    assert [path.name for path in paths][:1] == ["model.stl"]
