# SPDX-License-Identifier: Apache-2.0
"""Non-finite steps: skipped, then rolled back, then given up with the last good state kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab import pipeline, recipe
from dreamlab.core.errors import Diverged
from dreamlab.core.types import Condition
from dreamlab.recipe.tables import TABLES
from dreamlab.run import train
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.folder import Run
from dreamlab.run.outcome import is_out_of_memory
from guidance.oracle import Oracle
from tests.conftest import TINY, Commands

PROMPT = "a red mushroom with a white stem"


class Sick:
    """An oracle that answers nan in the chosen calls."""

    def __init__(self, oracle: Oracle, bad_calls: frozenset[int]) -> None:
        self.oracle, self.bad_calls, self.calls = oracle, bad_calls, 0
        self.table = oracle.table
        self.encode, self.decode, self.condition = oracle.encode, oracle.decode, oracle.condition

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        eps = self.oracle.predict(z_t, t_index, condition)
        self.calls += 1
        return torch.full_like(eps, float("nan")) if self.calls in self.bad_calls else eps


class SickAssembler(Assembler):
    """Puts one sick model in the place of every guidance."""

    bad_calls: frozenset[int] = frozenset()

    def stage(self, index: int, earlier: object = None) -> BuiltStage:
        for spec, made in list(self._guidance.items()):
            if not isinstance(made, Sick):
                self._guidance[spec] = Sick(made, self.bad_calls)  # type: ignore[arg-type, assignment]
        built = super().stage(index, earlier)  # type: ignore[arg-type]
        return built if all(isinstance(t.guidance, Sick) for t in built.terms) else self.stage(index, earlier)


def make(tiny: Path, folder: Path, bad: set[int], *overrides: str) -> tuple[Run, recipe.Recipe, SickAssembler]:
    # One stage is enough here, and `seed` moves nothing that these tests look at.
    return make_from(tiny, folder, bad, "stages.finer.steps=1", *overrides)


def make_from(path: Path, folder: Path, bad: set[int], *overrides: str) -> tuple[Run, recipe.Recipe, SickAssembler]:
    run = pipeline.create(PROMPT, path, folder / "runs", overrides, None, [])
    wanted = recipe.load(run.recipe_path(), TABLES)
    assembler = SickAssembler(wanted, "cpu")
    assembler.bad_calls = frozenset(bad)
    return run, wanted, assembler


def kinds(run: Run) -> list[str]:
    return [event["kind"] for event in run.events()]


def test_a_single_bad_step_is_skipped_and_the_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    run, wanted, assembler = make(tiny, tmp_path, {2}, "keeping.log=1")
    scene = train.train(run, wanted, assembler)
    healthy = [event["healthy"] for event in run.events() if event["kind"] == "metrics"]
    assert healthy == [1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert all(torch.isfinite(value).all() for value in scene.state_dict().values())
    assert "rollback" not in kinds(run)


def test_a_bad_step_moves_no_parameter(tiny: Path, tmp_path: Path) -> None:
    _, _, assembler = make(tiny, tmp_path, {1})
    stage = assembler.stage(0)
    for name, value in stage.scene.state_dict().items():  # something to refresh, and something to prune
        if name.endswith("occupancy"):
            value.mul_(2)
        if name.endswith("logit_opacity"):
            value[::2] -= 9
    before = {name: value.clone() for name, value in stage.scene.state_dict().items()}
    train.step(stage, 0, train.Ring(train.METRICS, 4, "cpu"))
    assert all(torch.equal(value, before[name]) for name, value in stage.scene.state_dict().items())


# What each scene does between steps, due in every step here; and what of its state that is.
BETWEEN = {
    "walk": ("{kind: gaussians, count: 48, densify: {kind: mcmc, begin: 1, end: 1}}", "means"),
    "relocation": ("{kind: gaussians, count: 48, densify: {kind: mcmc, begin: 0, every: 1, noise: 0}}", "means"),
    "statistics": ("{kind: gaussians, count: 48, densify: {kind: adaptive, begin: 1, end: 1}}", "stats.count"),
    "growth": ("{kind: gaussians, count: 48, densify: {kind: adaptive, begin: 0, every: 1, gradient: 1e-9}}", "means"),
    "reset": (
        "{kind: gaussians, count: 48, densify: {kind: adaptive, begin: 0.59, reset_every: 1}}", "logit_opacity"
    ),
    "occupancy": ("{kind: field, levels: 4, log2_entries: 10, finest: 9, occupancy: 8, refresh: 1}", "occupancy"),
    "of one prompt": ("{kind: hyper_field, levels: 4, log2_entries: 10, occupancy: 8, refresh: 1}", "occupancy"),
    "of a 4D field": ("{kind: field4d, levels: 4, log2_entries: 10, finest: 9, occupancy: 8, refresh: 1}", "occupancy"),
    "of an object": (
        "{kind: several, objects: {it: {scene: {kind: field, levels: 4, log2_entries: 10, finest: 16, occupancy: 8,"
        " refresh: 1}}}}", "it.occupancy"
    ),
}  # fmt: skip


def moved(scene: str, folder: Path, sick: bool, particles: int = 1) -> dict[str, bool]:
    """Of everything a checkpoint holds of scene and optimiser: whether one step changed it."""
    source = TINY[: TINY.index("  - name: finer")] + "export: {formats: [glb]}\n"
    source = source.replace("{kind: gaussians, count: 48, radius: 0.5}", scene)
    folder.mkdir()
    (folder / "one.yaml").write_text(source)
    _, _, assembler = make_from(folder / "one.yaml", folder, {1} if sick else set(), f"stages.0.particles={particles}")
    stage = assembler.stage(0)

    def state() -> dict[str, Tensor]:
        return {**stage.scene.state_dict(), **{f"adam.{n}": v for n, v in stage.optimiser.state_dict().items()}}

    for name, value in stage.scene.state_dict().items():  # something to refresh, and something to prune
        if name.endswith("occupancy"):
            value.mul_(2)
        if name.endswith("logit_opacity"):
            value[::2] -= 9
    before = {name: value.clone() for name, value in state().items()}
    train.step(stage, 0, train.Ring(train.METRICS, 4, "cpu"))
    return {name: not torch.equal(value, before[name]) for name, value in state().items()}


@pytest.mark.parametrize("what", BETWEEN)
def test_a_bad_step_does_nothing_between_steps_either(tmp_path: Path, what: str) -> None:
    scene, key = BETWEEN[what]
    assert moved(scene, tmp_path / "healthy", sick=False)[key]
    found = moved(scene, tmp_path / "sick", sick=True)
    assert not any(found.values()), [name for name, changed in found.items() if changed]


def test_nor_does_it_with_particles(tmp_path: Path) -> None:
    """Only the stream that says which of them is shown goes on, as all streams do."""
    found = moved(BETWEEN["walk"][0], tmp_path / "sick", sick=True, particles=2)
    assert [name for name, changed in found.items() if changed] == ["stream"]


def test_adaptive_guidance_learns_nothing_from_a_bad_step(tiny: Path, tmp_path: Path) -> None:
    """A nan in its running mean would never leave it: every later step would do without the unconditional half."""
    adaptive = "stages.0.terms.0.prompting={adaptive: 0.1}"
    for bad, learns in ((set(), True), ({1}, False)):
        _, _, assembler = make(tiny, tmp_path, bad, adaptive)
        stage = assembler.stage(0)
        before = stage.terms[0].asking.state_dict()["moved"]
        train.step(stage, 0, train.Ring(train.METRICS, 4, "cpu"))
        assert torch.equal(stage.terms[0].asking.state_dict()["moved"], before) is not learns


def test_many_bad_steps_roll_back_with_half_the_rate(tiny: Path, tmp_path: Path) -> None:
    run, wanted, assembler = make(tiny, tmp_path, {5, 6}, "guard.skips=2")
    train.train(run, wanted, assembler)
    assert kinds(run).count("rollback") == 1
    assert run.state()["rate_scale"] == 0.5 and run.state()["step"] == 9


def test_giving_up_keeps_the_last_good_checkpoint(tiny: Path, tmp_path: Path) -> None:
    run, wanted, assembler = make(tiny, tmp_path, set(range(5, 1000)), "guard.skips=2", "guard.rollbacks=2")
    with pytest.raises(Diverged, match=r"2 roll-backs.*last good checkpoint is kept"):
        train.train(run, wanted, assembler)
    assert kinds(run).count("rollback") == 2
    _, scene, _ = pipeline.finished_scene(run)
    assert all(torch.isfinite(value).all() for value in scene.state_dict().values())


@pytest.mark.parametrize("code", ["torch.empty(1 << 60)", "torch.empty(1 << 46)", "bytearray(1 << 62)"])
def test_real_allocation_failures_are_known_as_such(code: str) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        eval(code, {"torch": torch})
    assert is_out_of_memory(caught.value)


def test_a_real_divergence_ends_with_code_6(dreamlab: Commands, tiny: Path) -> None:
    """Rates of 1e30 overflow float32 within steps: no step is healthy after the first."""
    rates = [f"stages.0.scene.lr_{name}=1e30" for name in ("means", "scales", "quats")]
    ended = dreamlab("dream", PROMPT, *rates, "guard.skips=2", "--recipe", str(tiny))
    assert ended.code == 6, ended.err
    assert "Traceback" not in ended.err and ended.err.count("error:") == 1
    (run,) = (dreamlab.folder / "runs").iterdir()
    assert json.loads((run / "state.json").read_text())["state"] == "failed"
