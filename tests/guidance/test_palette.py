# SPDX-License-Identifier: Apache-2.0
"""The picture's colours in place of the world's: an invertible map, and what follows it backwards."""

from __future__ import annotations

import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.types import Reference
from guidance.toybox.palette import NOTHING, Palette, matched
from guidance.toybox.volume import MASK, SHOWN

BEIGE, GRAY = torch.tensor([0.86, 0.74, 0.60]), torch.tensor([0.60, 0.60, 0.62])
TEAL, CYAN = torch.tensor([0.10, 0.45, 0.45]), torch.tensor([0.20, 0.65, 0.68])


def test_it_brings_its_colours_over_leaves_others_and_has_an_inverse() -> None:
    palette = Palette(torch.stack([BEIGE, TEAL]), torch.stack([GRAY, CYAN]))
    assert (palette.to_world(BEIGE) - GRAY).abs().max() < 0.04 and (palette.to_world(TEAL) - CYAN).abs().max() < 0.04
    far = torch.tensor([0.95, 0.05, 0.9])
    assert (palette.to_world(far) - far).abs().max() < 0.05
    colours = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(palette.to_given(palette.to_world(colours)), colours, atol=2e-3, rtol=0)
    assert torch.equal(NOTHING.to_world(colours), colours) and torch.equal(NOTHING.to_given(colours), colours)


def test_what_asks_for_the_worlds_colour_makes_the_pictures() -> None:
    """Descent on the squared difference in the world's colours, as a score does: from gray to beige, though gray is
    what is asked for."""
    palette = Palette(BEIGE[None], GRAY[None])
    scene = torch.full((3,), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([scene], 0.02)
    for _ in range(200):
        optimiser.zero_grad()
        (palette.to_world(scene) - GRAY).square().sum().backward()
        optimiser.step()
    assert (scene.detach() - BEIGE).abs().max() < 0.06 < (scene.detach() - GRAY).abs().max()


def test_colours_are_measured_part_by_part_where_both_see_them() -> None:
    """A beige square on top of a teal one; the volume says gray over cyan, and sees a column less."""
    rgb = torch.cat([BEIGE.expand(32, 64, 3), TEAL.expand(32, 64, 3)])
    given = Reference(rgb, torch.ones(64, 64, 1), orbit([0.0]))
    shown = torch.zeros(16, 16, SHOWN)
    shown[:8, :15, :3], shown[8:, :15, :3] = GRAY, CYAN
    shown[:, :15, MASK] = 1.0
    shown[8:, :15, SHOWN - 1] = 1.0
    found = matched(given, shown)
    torch.testing.assert_close(found.given, torch.stack([BEIGE, TEAL]), atol=0.02, rtol=0)
    torch.testing.assert_close(found.world, torch.stack([GRAY, CYAN]), atol=1e-4, rtol=0)
    assert matched(given, torch.zeros(16, 16, SHOWN)) is NOTHING
