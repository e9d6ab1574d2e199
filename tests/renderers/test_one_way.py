# SPDX-License-Identifier: Apache-2.0
"""Of a motion the one way stays, what leaves it fades: against NumPy's singular values, and for known motions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import turntable
from dreamlab.core.rotation import matrix, product
from dreamlab.core.schedules import Progress
from renderers.gaussian.deform import DeformSettings
from renderers.gaussian.one_way import faded, from_half_turns, half_turns, main_number, whole_turns
from tests.renderers.test_gaussians4d import stream
from tests.renderers.test_mesh4d import scene, yaws

KNOTS, POINTS = 9, 4


def turned(axis: int, degrees: Tensor) -> Tensor:
    """[T, 4] about an axis of the world."""
    half = torch.zeros(len(degrees), 3)
    half[:, axis] = torch.deg2rad(degrees) / 2
    return from_half_turns(half)


def phase() -> Tensor:
    return torch.linspace(0, 2 * math.pi, KNOTS)


def rocking() -> tuple[Tensor, Tensor]:
    """14 degrees about +Z, a shift that goes with it (its foot stays), and points that swing along."""
    swing = phase().sin()
    shift = torch.stack([-0.12 * swing, torch.zeros(KNOTS), torch.zeros(KNOTS)], -1) + 0.1
    poses = 0.05 * swing[:, None, None] * torch.randn(POINTS, 6, generator=stream(1))
    poses[:, 2] = 0
    return torch.cat([turned(2, 14 * swing), shift], -1), poses


def test_a_known_rocking_is_one_way_and_stays() -> None:
    whole, poses = rocking()
    kept, own = faded(whole, poses, 1.0, loop=False)
    torch.testing.assert_close(kept, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(own, poses, atol=1e-6, rtol=0)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_wobble_beside_a_rocking_fades_by_its_share(share: float) -> None:
    """A way of all of it and one of a point that rests, at another frequency: the rocking stays to the digit."""
    whole, poses = rocking()
    wobble = 0.03 * (2 * phase()).sin()
    shaken, jerked = whole.clone(), poses.clone()
    shaken[:, 6] += wobble
    jerked[:, 2, 1] += wobble
    kept, own = faded(shaken, jerked, share, loop=False)
    left = (1 - share) * wobble
    torch.testing.assert_close(kept[:, :6], whole[:, :6], atol=1e-6, rtol=0)
    torch.testing.assert_close(kept[:, 6], whole[:, 6] + left, atol=1e-6, rtol=0)
    torch.testing.assert_close(own[:, 2, 1], left, atol=1e-6, rtol=0)


def test_the_number_over_time_is_the_first_singular_vector() -> None:
    table = torch.randn(KNOTS, 20, generator=stream(2), dtype=torch.float64) + phase().double().sin()[:, None]
    left, values, _ = np.linalg.svd((table - table.mean(0)).numpy(), full_matrices=False)
    assert values[1] < 0.95 * values[0]
    number = main_number(table).numpy()
    assert abs(float(number @ left[:, 0])) == pytest.approx(1, abs=1e-4)
    assert not main_number(torch.ones(KNOTS, 5)).any()  # what rests has none


@pytest.mark.parametrize("rounds", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("loop", [True, False])
def test_whole_turns_are_set_aside(rounds: float, loop: bool) -> None:
    """Also when it nods beside: a way of its own, while its turning stays as it was."""
    share = torch.arange(8) / 8 if loop else torch.linspace(0, 1, KNOTS)
    round_it = yaws(360 * rounds * share)[:, :4]
    torch.testing.assert_close(matrix(whole_turns(round_it, loop)), matrix(round_it), atol=1e-5, rtol=0)
    whole = torch.zeros(len(share), 7)
    whole[:, :4] = product(round_it, turned(0, 10 * (4 * math.pi * share).sin()))
    whole[::3, :4] *= -1  # the same turns
    kept, _ = faded(whole, torch.zeros(len(share), POINTS, 6), 1.0, loop)
    torch.testing.assert_close(matrix(kept[:, :4]), matrix(whole[:, :4]), atol=1e-5, rtol=0)


def test_half_turns_go_both_ways() -> None:
    half = torch.randn(50, 3, generator=stream(3))
    half = half / half.norm(dim=-1, keepdim=True) * torch.linspace(0, 1.57, 50)[:, None]
    torch.testing.assert_close(half_turns(-2 * from_half_turns(half)), half, atol=1e-5, rtol=0)


def test_a_mesh_keeps_to_its_way_when_all_moments_are_free_and_not_before() -> None:
    whole, _ = rocking()
    whole[:, 6] += 0.03 * (2 * phase()).sin()
    before = scene().motion.settings
    for share, at, fades in ((0.5, 90, True), (0.5, 10, False), (0.0, 90, False)):
        made = scene(deform=replace(before, one_way=share))
        made.motion.load({**made.motion.params, "whole": whole})
        frames = made.render(replace(turntable(1), time=torch.zeros(1)), 8, torch.zeros(1, 3))
        made.adapt(Progress(at, 100), frames, torch.tensor(True))
        around = made.motion.params["whole"].detach()[1]  # the first knot is free from the start
        assert bool((around - whole[1]).abs().max() > 1e-3) == fades
    assert DeformSettings().one_way == 0


def test_a_loop_opens_over_its_seam() -> None:
    """Eight knots of a loop: those beside time 0 have turned by 45 degrees to either side, and all turn on so."""
    made = scene(deform=replace(scene().motion.settings, moments=8, loop=True))
    assert made.free(Progress(0, 100)) == 1 / 8
    turns = torch.zeros(8)
    turns[1], turns[-1] = 45.0, -45.0
    made.motion.load({**made.motion.params, "whole": yaws(turns)})
    made.motion.go_on(1 / 8)
    found, wanted = made.motion.params["whole"].detach(), yaws(45.0 * torch.arange(8))
    torch.testing.assert_close(matrix(found[:, :4]), matrix(wanted[:, :4]), atol=1e-5, rtol=0)
