# SPDX-License-Identifier: Apache-2.0
"""How crisp an asset is: closed forms of edges, specks and strays, and the world held against itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamlab.metrics.asset import instances, true_answer
from dreamlab.metrics.crispness import crisp_cameras, crispness, energy, grown, mean, nearest, pictured, specks
from dreamlab.toybox.caption import parse

SIDE = 96


def square(low: int, high: int, soft: int = 1) -> tuple[Tensor, Tensor]:
    """A black square over white, its left and right edges spread over so many pixels around their places."""
    x = torch.arange(SIDE) + 0.5
    across = ((x - low) / soft + 0.5).clamp(0, 1) * ((high - x) / soft + 0.5).clamp(0, 1)
    along = ((x > low) & (x < high)).float()
    alpha = (along[:, None] * across[None])[None, ..., None]
    return (1 - alpha).expand(-1, -1, -1, 3), alpha


@pytest.mark.parametrize("width", [2, 4, 8])
def test_an_edge_spread_over_w_pixels_has_a_w_th_of_the_energy(width: int) -> None:
    ramp = (torch.arange(SIDE) + 0.5 - SIDE / 2).div(width).add(0.5).clamp(0, 1)
    picture = ramp.expand(1, SIDE, SIDE)[..., None]
    # Read at the pixels' centres: width - 1 steps of 1 / width, and half of one at either end.
    assert float(energy(picture)) == pytest.approx(SIDE * (width - 0.5) / width**2, rel=1e-5)


def test_softness_is_seen_in_the_rim_and_nothing_else() -> None:
    sharp = square(30, 66)
    found = crispness(square(30, 66, soft=8), sharp)
    # Of four edges of 36 pixels two are spread over eight; the other two fade at their ends, where squares of eighths
    # stand in place of four ones.
    faded = 36 - 2 * (4 - sum(((k + 0.5) / 8) ** 2 for k in range(8)))
    assert found.rim == pytest.approx((2 * faded + 2 * 36 * 7.5 / 64) / (4 * 36), rel=1e-4)
    assert found.iou == 1 and found.stray == 0 and found.specks == 0
    same = crispness(sharp, sharp)
    assert (same.psnr, same.iou, same.rim) == (100.0, 1.0, 1.0)


def test_a_displaced_square_has_the_overlap_and_the_error_of_its_areas() -> None:
    found = crispness(square(34, 70), square(30, 66))
    both, either = 32 * 32, 2 * 36 * 36 - 32 * 32  # rows move with the columns: the square is square
    assert found.iou == pytest.approx(both / either, abs=1e-6)
    assert found.psnr == pytest.approx(float(-10 * torch.tensor((either - both) / either).log10()), abs=1e-4)
    assert found.rim == pytest.approx(1.0)


def test_what_floats_is_counted_and_weighed() -> None:
    rgb, alpha = (each.clone() for each in square(30, 66))
    for place in ((5, 5), (5, 80), (80, 40)):  # the last one touches the true outline's surroundings, but is apart
        alpha[0, place[0] : place[0] + 2, place[1] : place[1] + 2] = 0.5
    assert specks(alpha) == 3
    found = crispness((rgb, alpha), square(30, 66))
    assert found.stray == pytest.approx(3 * 4 * 0.5 / 36**2)
    alpha[0, 5:7, 80:82] = 0.05  # nobody sees that
    assert specks(alpha) == 2


def test_a_mask_grows_by_squares() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 10, 10] = True
    assert int(grown(mask, 3).sum()) == 49


def test_the_world_is_as_crisp_as_itself_and_the_nearest_instance_is_its_own() -> None:
    caption = parse("a red mushroom with a white stem")
    truths = [true_answer(caption, seed) for seed in instances("mushroom", 3)]
    cameras = crisp_cameras(2)
    assert [nearest(truth, truths, cameras) for truth in truths] == [0, 1, 2]
    mine = pictured(truths[1], cameras, 64)
    found = crispness(mine, mine)
    assert (found.psnr, found.iou, found.rim, found.inner) == (100.0, 1.0, 1.0, 1.0)
    assert mean([found, found]) == found
