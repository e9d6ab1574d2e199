# SPDX-License-Identifier: Apache-2.0
"""Several objects: placement against moved points, masks that add up, one alone, composition by depth."""

from __future__ import annotations

import math

import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import RecipeError
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Frames, Training
from renderers.compose import Placement, Several, over

LEFT = Placement(count=64, radius=0.3, position=(-0.5, 0.0, 0.0), code=(1.0, 0.0, 0.0))
RIGHT = Placement(count=32, radius=0.3, position=(0.5, 0.1, 0.0), turn_deg=90, scale=0.5, code=(0.0, 1.0, 0.0))


def scene(**settings: object) -> Several:
    wanted = Several.Settings(objects={"duck": LEFT, "house": RIGHT}, opacity=0.9, **settings)
    return Several(wanted, torch.Generator().manual_seed(0))


def test_a_point_stands_where_its_placement_says() -> None:
    made = scene()
    with torch.no_grad():
        made.params["house.means"][0] = torch.tensor([0.2, 0.1, 0.0])
        made.params["house.quats"][0] = torch.tensor([1.0, 0, 0, 0])
    placed = made.part("house")
    # A quarter turn counter-clockwise seen from above takes +X to -Z.
    torch.testing.assert_close(placed["means"][0], torch.tensor([0.5, 0.15, -0.1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(placed["quats"][0], torch.tensor([math.cos(math.pi / 4), 0, math.sin(math.pi / 4), 0]))
    torch.testing.assert_close(placed["log_scales"].exp(), made.params["house.log_scales"].exp() * 0.5)


def test_masks_add_up_to_alpha_and_codes_follow_them() -> None:
    frames = scene().render(orbit([0.0, 70.0]), 24, torch.ones(2, 3))
    masks, codes = frames.extra["masks"], frames.extra["codes"]
    torch.testing.assert_close(masks.sum(-1, keepdim=True), frames.alpha, atol=1e-4, rtol=0)
    torch.testing.assert_close(codes[..., :2], masks, atol=1e-4, rtol=0)
    left, right = frames.extra["masks"][0, :, :12], frames.extra["masks"][0, :, 12:]
    assert left[..., 0].sum() > 10 * left[..., 1].sum() and right[..., 1].sum() > 10 * right[..., 0].sum()


def test_one_alone_is_drawn_in_its_own_frame() -> None:
    made = scene(alone=constant(1.0))
    cameras, black = orbit([0.0]), torch.zeros(1, 3)
    seen = set()
    for seed in range(8):
        frames = made.render(cameras, 16, black, Training(Progress(0, 1), torch.Generator().manual_seed(seed)))
        assert int(frames.extra["present"].sum()) == 1
        one = int(frames.extra["present"].nonzero()[0, 0])
        seen.add(one)
        x = (frames.extra["masks"][0, ..., one].sum(0) * (torch.arange(16) - 7.5)).sum()
        assert abs(float(x.detach() / frames.alpha.sum().detach())) < 1  # in the middle, not to a side
    assert seen == {0, 1}


def test_the_box_holds_and_gradients_reach_every_object() -> None:
    made = scene()
    frames = made.render(orbit([0.0]), 16, torch.zeros(1, 3))
    assert float(made.penalty("box", frames).detach()) == 0
    with torch.no_grad():
        made.params["duck.means"][:, 1] = 0.9
    loss = made.penalty("box", frames)
    assert float(loss.detach()) == pytest.approx((0.1**2) / 2, rel=1e-4)
    (loss + frames.rgb.sum()).backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in made.params.values())


def test_a_scene_without_objects_is_refused() -> None:
    with pytest.raises(RecipeError, match="objects"):
        Several(Several.Settings(objects={}), torch.Generator())


def flat(color: tuple[float, float, float], alpha: float, depth: float) -> Frames:
    """One pixel over gray."""
    gray = torch.full((1, 3), 0.5)
    a = torch.full((1, 1, 1, 1), alpha)
    rgb = a * torch.tensor(color) + (1 - a) * 0.5
    return Frames(rgb, a, torch.full((1, 1, 1, 1), depth), gray, torch.tensor([0.0, 0, 1]) * a)


def test_frames_are_composed_nearest_first() -> None:
    red, green = flat((1, 0, 0), 0.5, 2.0), flat((0, 1, 0), 0.8, 1.0)
    for parts, rows in (((red, green), (0, 1)), ((green, red), (1, 0))):
        frames, covered = over(parts, torch.tensor([[0.0, 0, 1]]))
        # Green in front: 0.8; red behind it: 0.5 of the 0.2 left; blue the last 0.1.
        torch.testing.assert_close(frames.rgb[0, 0, 0], torch.tensor([0.1, 0.8, 0.1]))
        torch.testing.assert_close(covered[0, 0, 0], torch.tensor([0.1, 0.8])[list(rows)])
        assert float(frames.alpha) == pytest.approx(0.9) and float(frames.depth) == pytest.approx(1.0 / 0.9)
    alone, _ = over([red, flat((0, 0, 0), 0.0, 0.0)], torch.tensor([[0.0, 0, 1]]))
    torch.testing.assert_close(alone.rgb[0, 0, 0], torch.tensor([0.5, 0.0, 0.5]))
