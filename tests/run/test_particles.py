# SPDX-License-Identifier: Apache-2.0
"""Several scenes under one rule: each step moves one, all share the rule's network, and a resumed run goes on equal."""

from __future__ import annotations

import torch

from dreamlab.recipe import load
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.particles import Particles
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step

RECIPE = """
prompt: a red ball
stages:
  - name: shape
    scene: {kind: gaussians, count: 40}
    particles: 3
    terms:
      - guidance: {kind: oracle, others: 1}
        system: {kind: vsd, width: 8}
        prompting: {adaptive: 0.5}
    steps: 30
    views: 2
    size: 16
  - name: after
    scene: {kind: gaussians, count: 40, from: shape}
    terms: [{guidance: {kind: oracle, others: 1}, system: sds}]
    steps: 2
    size: 16
"""


def stage() -> BuiltStage:
    return Assembler(load(RECIPE, TABLES), "cpu").stage(0)


def run(built: BuiltStage, first: int, last: int) -> None:
    for i in range(first, last):
        step(built, i, Ring(METRICS, 100, "cpu"))


def test_a_step_moves_one_particle_and_every_particle_gets_its_turn() -> None:
    built = stage()
    assert isinstance(built.scene, Particles)
    moved = []
    for i in range(8):
        before = built.scene.state_dict()
        before = {name: value.clone() for name, value in before.items()}
        run(built, i, i + 1)
        after = built.scene.state_dict()
        moved.append({name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} - {"stream"})
    assert all(len(which) == 1 for which in moved) and set.union(*moved) == {"0", "1", "2"}


def test_a_resumed_run_of_particles_ends_equal() -> None:
    whole, half = stage(), stage()
    run(whole, 0, 8)
    run(half, 0, 4)
    again = stage()
    again.scene.load_state_dict({name: value.clone() for name, value in half.scene.state_dict().items()})
    again.optimiser.load_state_dict(half.optimiser.state_dict())
    again.terms[0].system.load_state_dict({n: v.clone() for n, v in half.terms[0].system.state_dict().items()})
    again.terms[0].asking.load_state_dict({n: v.clone() for n, v in half.terms[0].asking.state_dict().items()})
    again.streams.load_state_dict(half.streams.state_dict())
    run(again, 4, 8)
    torch.testing.assert_close(again.scene.state_dict(), whole.scene.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        again.terms[0].system.state_dict(), whole.terms[0].system.state_dict(), rtol=0, atol=0
    )  # fmt: skip


def test_a_later_stage_takes_the_first_particle() -> None:
    assembler = Assembler(load(RECIPE, TABLES), "cpu")
    first = assembler.stage(0).scene
    later = assembler.stage(1, {"shape": first}).scene
    expected = {name.removeprefix("0."): v for name, v in first.state_dict().items() if name.startswith("0.")}
    torch.testing.assert_close(later.state_dict(), expected, rtol=0, atol=0)
