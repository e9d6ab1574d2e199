# SPDX-License-Identifier: Apache-2.0
"""The small four-view Stable Diffusion that comes with the package, by the adapter of any MVDream folder and against
the truth of the procedural world: noisy latents of held-out objects come back better when their own words and their own
cameras are told than when those of others are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.cameras import Cameras
from dreamlab.core.types import Condition, Frames, Prompt
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.toybox.training.sd.scenes import PIXELS, SIDES, Shelf, cameras_of, draw_shelf

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

from guidance.mvdream import MultiViewDream

OBJECTS = 6


@dataclass(frozen=True)
class Noisy:
    """Held-out objects from four sides each, as the model looks at them, with noise on them."""

    model: MultiViewDream
    shelf: Shelf
    clean: Tensor  # [4 K, 4, 16, 16]
    noise: Tensor

    def error(self, index: int, texts: list[str], orbits: Tensor) -> float:
        """Mean square of the eps that is guessed, less the true one."""
        t = torch.full((SIDES,), index)
        a, b = self.model.table.signal_noise(t, self.clean[:SIDES])
        off = []
        for k, text in enumerate(texts):
            rows = slice(SIDES * k, SIDES * (k + 1))
            z = a * self.clean[rows] + b * self.noise[rows]
            guessed = self.model.predict(z, t, self.told(text, cameras_of(orbits[k])))
            off.append((guessed - self.noise[rows]).square().mean())
        return float(torch.stack(off).mean())

    def told(self, text: str, cameras: Cameras) -> Condition:
        blank = torch.zeros(SIDES, 16, 16, 1)
        views = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(SIDES, 3))
        return self.model.condition(Prompt(text), cameras, views)["text"]


@pytest.fixture(scope="module")
def noisy() -> Noisy:
    settings = MultiViewDream.Settings(model="toybox-mv", dtype="float32")
    model = MultiViewDream.build(settings, None).to("cpu")
    shelf = draw_shelf(77, 0, OBJECTS, held_out=True)
    with torch.no_grad():
        clean = model.encode(shelf.pictures().flatten(0, 1))
    return Noisy(model, shelf, clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)))


def turned(orbits: Tensor) -> Tensor:
    """Every view is told its neighbour's place."""
    return orbits.roll(1, 1)


def tilted(orbits: Tensor) -> Tensor:
    return orbits + torch.tensor([0.0, 45.0, 0.0, 0.0])


def test_it_says_what_noise_there_is(noisy: Noisy) -> None:
    """Who knows nothing but the spread s of latents cannot guess eps better than to a^2 s / (a^2 s + b^2)."""
    for index in (250, 500, 750):
        a, b = (float(x.flatten()[0]) for x in noisy.model.table.signal_noise(torch.tensor([index]), noisy.clean[:1]))
        spread = float(noisy.clean.var())
        blind = a**2 * spread / (a**2 * spread + b**2)
        assert noisy.error(index, list(noisy.shelf.texts), noisy.shelf.orbits) < 0.25 * blind


def test_it_hears_the_words(noisy: Noisy) -> None:
    own = list(noisy.shelf.texts)
    assert len(set(own)) == OBJECTS
    for index in (700, 900):
        right = noisy.error(index, own, noisy.shelf.orbits)
        assert right < 0.6 * noisy.error(index, own[1:] + own[:1], noisy.shelf.orbits)
        assert right < 0.9 * noisy.error(index, [""] * OBJECTS, noisy.shelf.orbits)


@pytest.mark.parametrize("moved", [turned, tilted])
def test_it_hears_where_the_cameras_stand(noisy: Noisy, moved: Callable[[Tensor], Tensor]) -> None:
    own = list(noisy.shelf.texts)
    right = noisy.error(700, own, noisy.shelf.orbits)
    assert right < 0.98 * noisy.error(700, own, moved(noisy.shelf.orbits))


def test_the_recipe_takes_steps_on_it_as_it_was_trained() -> None:
    """Tests of the rules put the oracle in its place; here it is the model itself, at its size and with its ring."""
    wanted = recipe.load(recipe.find("mvdream"), TABLES, overrides=["stages.0.scene.count=32"])
    stage = wanted.stages[0]
    assert all((each.size, each.views, each.cameras.ring) == (PIXELS, SIDES, SIDES) for each in wanted.stages)
    built = Assembler(wanted, "cpu").stage(0)
    assert isinstance(built.terms[0].guidance, MultiViewDream)
    ring = Ring(METRICS, 4, "cpu")
    before = {name: group.tensor.detach().clone() for name, group in built.scene.groups().items()}
    for i in (0, stage.steps - 1):
        step(built, i, ring)
    assert all(row["healthy"] == 1 and math.isfinite(row["loss"]) for row in ring.drain())
    assert all(not torch.equal(group.tensor, before[name]) for name, group in built.scene.groups().items())
