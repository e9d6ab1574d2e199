# SPDX-License-Identifier: Apache-2.0
"""The weights that ship: whole, small enough, documented, and better than knowing nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.types import Condition, Frames, Prompt
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.draw import draw
from guidance.toybox.prior import SHIPPED, Toybox
from guidance.toybox.store import load

FOLDERS = sorted(path.parent for path in SHIPPED.glob("*/config.json"))
PROMPTS = ("a red mushroom with a white stem", "a blue car with black wheels", "a green house with a red roof")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_whole_small_and_documented(folder: Path) -> None:
    stored = load(folder)
    assert (folder / "model.safetensors").stat().st_size <= 16e6
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{stored.facts['images']:,}" in card, "the card speaks of other weights"


def test_all_roles_together_stay_small() -> None:
    """And with the small latent model, which shows the path of others."""
    sizes = {path: path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()}
    assert sum(size for path, size in sizes.items() if "toybox-mv" not in path.parts) <= 48e6
    assert sum(sizes.values()) <= 60e6


@pytest.mark.skipif(not (SHIPPED / "toybox").is_dir(), reason="no weights yet")
@pytest.mark.parametrize(("t", "gain"), [(300, 0.05), (600, 0.15), (850, 0.5)])
def test_it_finds_the_picture_behind_the_noise(t: int, gain: float) -> None:
    """Mean squared error of x0 against that of a gray picture, on objects it is told of."""
    prior = Toybox(Toybox.Settings())
    cameras, background = orbit([20.0, 200.0], 20.0, 3.2, 42.0), torch.tensor([[0.2, 0.5, 0.7], [0.8, 0.8, 0.8]])
    generator = torch.Generator().manual_seed(0)
    for prompt in PROMPTS:
        rgb = draw(programs_for(parse(prompt)), cameras, 64).over(background[:, None, None])[0]
        x0, steps = prior.encode(rgb), torch.full((2,), t)
        z = prior.table.add_noise(x0, torch.randn(x0.shape, generator=generator), steps)
        blank = Frames(rgb, rgb[..., :1], rgb[..., :1], background)
        condition: Condition = prior.condition(Prompt(prompt), cameras, blank)["text"]
        found = prior.table.x0(z, prior.predict(z, steps, condition), steps)
        assert (found - x0).square().mean() < gain * x0.square().mean(), prompt
