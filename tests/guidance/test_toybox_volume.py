# SPDX-License-Identifier: Apache-2.0
"""The volume of the prior: rays meet in it what lies on them, and what is told decides what is in it."""

from __future__ import annotations

import pytest
import torch

from dreamlab.core.cameras import orbit
from guidance.toybox.told import CAMERA_FEATURES, camera_features, ray_features
from guidance.toybox.volume import REACH, SHOWN, Given, Volume, seen_along

CELLS = 16
CAMERAS = orbit([0.0, 70.0, -130.0, 180.0], [0.0, 35.0, 60.0, -15.0], [3.2, 3.0, 3.6, 3.3], [42.0, 38.0, 46.0, 40.0])
RAYS = ray_features(camera_features(CAMERAS), CELLS)
CENTRES = (torch.arange(CELLS) + 0.5) * (2 * REACH / CELLS) - REACH
PLACES = [(0.0, 0.0, 0.0), (0.4375, 0.3125, -0.4375), (-0.5625, -0.1875, 0.3125)]  # of cells, or between them


def ball(place: tuple[float, float, float], value: float = 30.0) -> torch.Tensor:
    """[1, z, y, x, 2]: dense within 0.3 m of a place, empty elsewhere; one feature, 1 in the ball."""
    z, y, x = torch.meshgrid(CENTRES, CENTRES, CENTRES, indexing="ij")
    inside = ((x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2).sqrt() < 0.3
    return torch.stack([torch.where(inside, value, -30.0), inside.float()], -1)[None]


@pytest.mark.parametrize("place", PLACES)
def test_a_ball_is_seen_where_the_camera_projects_it(place: tuple[float, float, float]) -> None:
    """Against the cameras' own matrices, which neither rays nor volume know of."""
    seen = seen_along(ball(place), torch.zeros(len(CAMERAS)).long(), RAYS)
    world_to_camera = torch.linalg.inv(CAMERAS.camera_to_world)
    at = (world_to_camera @ torch.tensor([*place, 1.0]))[:, :3]
    half = torch.tan(torch.deg2rad(CAMERAS.fovy_deg) / 2)
    across, down = (at[:, 0] / -at[:, 2] / half + 1) / 2 * CELLS, (1 - at[:, 1] / -at[:, 2] / half) / 2 * CELLS
    mask = seen[..., 1]
    steps = torch.arange(CELLS) + 0.5
    middle_x, middle_y = ((mask.sum(axis) * steps).sum(1) / mask.sum((1, 2)) for axis in (1, 2))
    torch.testing.assert_close(middle_x, across, atol=0.35, rtol=0)
    torch.testing.assert_close(middle_y, down, atol=0.35, rtol=0)
    # It lies as far before the centre as along the ray through it, less what of the ball lies nearer still.
    hit = mask.flatten(1).argmax(1)
    before = seen[..., 2].flatten(1).gather(1, hit[:, None])[:, 0]
    toward = torch.nn.functional.normalize(CAMERAS.camera_to_world[:, :3, 3], dim=1) @ torch.tensor(place)
    assert ((before - toward) > -0.1).all() and ((before - toward) < 0.45).all()


def test_what_lies_behind_is_hidden() -> None:
    """Of two balls on the view's axis only the nearer one's feature arrives, from either side."""
    front, back = ball((0.0, 0.0, 0.5)), ball((0.0, 0.0, -0.5))
    both = torch.cat([torch.maximum(front, back)[..., :1], front[..., 1:], back[..., 1:]], -1)
    cameras = orbit([0.0, 180.0], 0.0, 3.2, 42.0)
    rays = ray_features(camera_features(cameras), CELLS)
    seen = seen_along(both, torch.tensor([0, 0]), rays)[:, 7:9, 7:9].mean((1, 2))
    assert seen[0, 0] > 0.8 and seen[0, 1] < 1e-3 and seen[1, 1] > 0.8 and seen[1, 0] < 1e-3


def made(moments: int = 0) -> Volume:
    torch.manual_seed(0)
    volume = Volume(24, 6, moments, blocks=1)
    for parameter in volume.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)
    return volume.requires_grad_(False)


def test_words_decide_and_padding_does_not() -> None:
    volume, words = made(), torch.randn(2, 5, 24)
    mask = torch.zeros(2, 5)
    mask[:, 4] = -torch.inf
    base = volume(words, mask)
    assert base.shape == (2, CELLS, CELLS, CELLS, 6) and volume.look(torch.zeros(1, 7)).shape == (1, SHOWN)
    padded = words.clone()
    padded[:, 4] += 3.0
    assert torch.equal(volume(padded, mask), base)
    padded[0, 2] += 3.0
    assert not torch.equal(volume(padded, mask)[0], base[0]) and torch.equal(volume(padded, mask)[1], base[1])


def test_each_token_fills_its_own_block_of_the_volume() -> None:
    volume, words, mask = made(), torch.randn(1, 2, 24), torch.zeros(1, 2)
    for block in volume.blocks:
        block.attention.out.weight.zero_()
        block.attention.out.bias.zero_()
    base = volume(words, mask)
    volume.place[1 * 16 + 2 * 4 + 3] += torch.randn(24)  # z, y, x of its block
    changed = (volume(words, mask) - base).abs().amax((0, 4)) > 0
    expected = torch.zeros(CELLS, CELLS, CELLS, dtype=torch.bool)
    expected[4:8, 8:12, 12:16] = True
    assert torch.equal(changed, expected)


def test_a_given_picture_and_a_moment_are_heard_only_where_they_are_told() -> None:
    volume, words, mask = made(moments=3), torch.randn(2, 5, 24), torch.zeros(2, 5)
    picture, camera = torch.randn(2, 64, 64, 3), torch.randn(2, CAMERA_FEATURES)
    there = torch.tensor([True, False])
    base = volume(words, mask)
    shown, other = (volume(words, mask, None, Given(picture + by, camera, there)) for by in (0.0, 1.0))
    assert (shown[0] - base[0]).abs().max() > 1e-3 and (shown[0] - other[0]).abs().max() > 1e-3
    torch.testing.assert_close(shown[1], base[1])
    assert torch.equal(shown[1], other[1])
    moment = torch.zeros(2, 6)
    assert torch.equal(volume(words, mask, moment), base)  # of no moment
    moment[0] = 1.0
    moved = volume(words, mask, moment)
    assert (moved[0] - base[0]).abs().max() > 1e-3 and torch.equal(moved[1], base[1])
