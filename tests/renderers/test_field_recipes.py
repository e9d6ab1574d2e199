# SPDX-License-Identifier: Apache-2.0
"""What a field can do, asked for in a recipe: bodies to start from, backgrounds, levels, normals, shading, latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.noise import NoiseTable, make_table
from dreamlab.core.types import Condition, Frames, Prompt
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step

FIELD = """
prompt: a red mushroom with a white stem
stages:
  - name: fit
    scene:
      kind: field
      levels: 4
      log2_entries: 9
      base: 4
      finest: 16
      hidden: 8
      occupancy: 12
      step: 0.08
      {more}
    terms: [{{guidance: truth, system: photometric}}]
    regularisers: {penalties}
    steps: 8
    views: 4
    size: 16
"""


def built(more: str, penalties: str = "{}") -> BuiltStage:
    return Assembler(recipe.load(FIELD.format(more=more, penalties=penalties), TABLES), "cpu").stage(0)


def trained(stage: BuiltStage, steps: int = 8) -> Any:
    """The scene after some steps, all of them healthy."""
    ring = Ring(METRICS, steps, "cpu")
    for i in range(steps):
        step(stage, i, ring)
    assert all(row["healthy"] for row in ring.drain())
    return stage.scene


def density(scene: Any, x: float) -> float:
    with torch.no_grad():
        return float(scene.sigma(scene.raw(torch.tensor([[x, 0.0, 0.0]]))))


@pytest.mark.parametrize(("bias", "dense"), [("dreamfusion", True), ("magic3d", True), ("hollow", False)])
def test_a_body_to_start_from(bias: str, dense: bool) -> None:
    """Blobs are full in the middle, a hollow field is empty there and closed around: a room seen from within."""
    scene: Any = built(f"bias: {bias}").scene
    middle, rim = density(scene, 0.0), density(scene, 0.95)
    assert middle > 5 * rim if dense else rim > 5 * middle
    inside = replace(turntable(2), camera_to_world=torch.eye(4).repeat(2, 1, 1))
    with torch.no_grad():
        room = scene.render(inside, 8, torch.zeros(2, 3))
    if not dense:  # walls begin where the bias is 0, at half the radius
        assert room.alpha.min() > 0.9 and room.depth.min() > 0.3
    else:
        assert room.depth.median() < 0.3


@pytest.mark.parametrize("kind", ["solid", "environment"])
def test_a_background_learns_beside_the_object(kind: str) -> None:
    """With `augment` 0 it is behind every view; the pictures it should match are over one plain colour."""
    stage = built(f"background: {{kind: {kind}, augment: 0, lr: 0.05}}")
    stage = replace(stage, spec=replace(stage.spec, background="black"))
    before = {name: value.clone() for name, value in stage.scene.state_dict().items()}
    rays = turntable(3).rays(8, 8)[1]
    scene: Any = stage.scene
    bright = scene.background.colour(rays).mean()
    after = trained(stage).state_dict()
    learnt = {name for name in after if not torch.equal(before[name], after[name])}
    assert {f"background.{name}" for name in scene.background.params} <= learnt
    assert scene.background.colour(rays).mean() < bright  # towards the black behind the true pictures


def test_levels_come_in_by_schedule() -> None:
    stage = built("active: {from: 1, to: 4.9}")
    scene: Any = stage.scene
    assert scene.active == 1
    used = []
    ring = Ring(METRICS, 100, "cpu")
    for i in range(8):
        step(stage, i, ring)
        used.append(scene.active)
    assert used == sorted(used) and used[0] == 1 and used[-1] == 4


@pytest.mark.parametrize("normals", ["analytic", "finite", "central", "predicted"])
def test_normals_and_light_by_schedule(normals: str) -> None:
    """Lit steps after the first half, with the penalties of normals."""
    lit = "{points: [{at: 40%, value: 0}, {at: 50%, value: 1}]}"
    stage = built(
        f"normals: {normals}\n      shading: {{lit: {lit}, textureless: 0.5}}", "{orient: 0.01, z_variance: 0.1}"
    )
    scene = trained(stage)
    with torch.no_grad():
        shown = scene.render(turntable(2), 12, torch.ones(2, 3))
    assert shown.normal is not None and shown.normal.norm(dim=-1).max() <= 1 + 1e-5
    middle = shown.normal[0, 5:7, 5:7].mean((0, 1))
    assert (
        normals == "predicted" or middle[2] > 0.3
    )  # the ball it starts as faces the first camera, which looks along -Z


class OnePoint:
    """A diffusion model of latents that are all the same: its denoiser is known, eps = (z_t - a x0) / s."""

    variants: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    table: NoiseTable = make_table("cosine")

    def __init__(self, latent: Tensor) -> None:
        self.latent = latent  # [4]

    def encode(self, rgb: Tensor) -> Tensor:
        raise AssertionError("latents are rendered, not encoded")

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> dict[str, Condition]:
        empty = Condition({"row": torch.zeros(len(cameras), 1)})
        return {"text": empty, "null": empty}

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        a, s = self.table.signal_noise(t_index, z_t)
        return (z_t - a * self.latent[:, None, None]) / s


def test_a_latent_field_is_distilled_without_an_encoder() -> None:
    """`latent: true` and `see: latent`: the four channels go to where the model has them all."""
    target = torch.tensor([0.8, -0.6, 0.3, -0.2])
    text = FIELD.format(more="latent: true", penalties="{}")
    text = text.replace(
        "guidance: truth, system: photometric", "guidance: oracle, system: {kind: sds, cfg: 1}, see: latent"
    )
    stage = Assembler(recipe.load(text.replace("steps: 8", "steps: 150"), TABLES), "cpu").stage(0)
    stage = replace(stage, terms=(replace(stage.terms[0], guidance=OnePoint(target)),))
    cameras, white = turntable(2), torch.ones(2, 3)

    def gap() -> float:
        with torch.no_grad():
            shown = stage.scene.render(cameras, 12, white)
        assert shown.extra["latent"].shape == (2, 12, 12, 4) and shown.rgb.shape[-1] == 3
        return float((shown.extra["latent"][:, 4:8, 4:8] - target).square().mean().sqrt())

    before = gap()
    trained(stage, 150)
    assert gap() < 0.2 * before
