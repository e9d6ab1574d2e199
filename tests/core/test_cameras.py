# SPDX-License-Identifier: Apache-2.0
"""Camera conventions, against matrices written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dreamlab.core.cameras import Cameras, OrbitSettings, look_at, orbit, sample_orbit, turntable, wrap_degrees

S = math.sqrt(0.5)

# azimuth, elevation, camera_to_world at distance 2, by hand: columns right, up, back, position.
BY_HAND = {
    (0.0, 0.0): [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]],
    (90.0, 0.0): [[0, 0, 1, 2], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]],
    (180.0, 0.0): [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, -2], [0, 0, 0, 1]],
    (-90.0, 0.0): [[0, 0, -1, -2], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]],
    (0.0, 45.0): [[1, 0, 0, 0], [0, S, S, 2 * S], [0, -S, S, 2 * S], [0, 0, 0, 1]],
    (0.0, 90.0): [[1, 0, 0, 0], [0, 0, 1, 2], [0, -1, 0, 0], [0, 0, 0, 1]],
    (0.0, -90.0): [[1, 0, 0, 0], [0, 0, -1, -2], [0, 1, 0, 0], [0, 0, 0, 1]],
}


@pytest.mark.parametrize(("azimuth", "elevation"), list(BY_HAND))
def test_orbit_matrices_equal_those_by_hand(azimuth: float, elevation: float) -> None:
    made = orbit([azimuth], elevation, 2.0).camera_to_world[0]
    expected = torch.tensor(BY_HAND[azimuth, elevation], dtype=torch.float32)
    torch.testing.assert_close(made, expected, atol=3e-7, rtol=0)


def test_azimuth_grows_counter_clockwise_seen_from_above() -> None:
    """Seen from +Y looking down with +Z (the front) at the bottom, +X is to the right; counter-clockwise from the
    bottom goes to the right."""
    positions = orbit([0.0, 30.0], 0.0, 1.0).camera_to_world[:, :3, 3]
    assert positions[1, 0] > positions[0, 0]
    angle = torch.linalg.cross(positions[0], positions[1])[1]  # > 0: a positive turn about +Y
    assert angle > 0


def test_world_to_camera_is_the_inverse() -> None:
    cameras = sample_orbit(OrbitSettings(jitter_up=0.1, jitter_position=0.2), 5, torch.Generator().manual_seed(1))
    product = cameras.world_to_camera().double() @ cameras.camera_to_world.double()
    torch.testing.assert_close(product, torch.eye(4).double().expand(5, 4, 4), atol=2e-6, rtol=0)


def test_a_known_point_lands_on_a_known_pixel() -> None:
    """fovy 90 degrees, 100 px: focal 50. Camera at (0, 0, 2): the point (0.5, 0.25, 0) is 2 ahead, 12.5 px right of
    the centre and 6.25 px above it."""
    cameras = orbit([0.0], 0.0, 2.0, 90.0)
    assert cameras.focal_px(100).item() == pytest.approx(50.0, rel=1e-6)
    local = cameras.world_to_camera()[0] @ torch.tensor([0.5, 0.25, 0.0, 1.0])
    x = 50 + 50 * local[0] / -local[2]
    y = 50 - 50 * local[1] / -local[2]
    assert (x.item(), y.item()) == (pytest.approx(62.5), pytest.approx(43.75))
    origin, rays = cameras.rays(100, 100)
    ray = (rays[0, 43, 62] + rays[0, 43, 61] + rays[0, 44, 62] + rays[0, 44, 61]) / 4  # around (62.0, 44.0)
    toward = torch.tensor([12.0 / 50 * 2, 6.0 / 50 * 2, 0.0]) - origin[0]
    torch.testing.assert_close(ray / ray.norm(), toward / toward.norm(), atol=1e-4, rtol=0)


def test_top_left_ray_points_up_and_left() -> None:
    _, rays = orbit([0.0], 0.0, 2.0, 60.0).rays(8, 8)
    assert rays[0, 0, 0, 0] < 0 < rays[0, 0, 0, 1]
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(1, 8, 8))


def test_stratified_azimuth_has_one_view_per_sector() -> None:
    for seed in range(50):
        cameras = sample_orbit(OrbitSettings(), 6, torch.Generator().manual_seed(seed))
        sectors = ((cameras.azimuth_deg + 180) / 60).floor().long().remainder(6)
        assert sorted(sectors.tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("rule", "flat"), [("sphere", "sine"), ("degrees", "angle")])
def test_elevation_is_uniform_as_named(rule: str, flat: str) -> None:
    """Kolmogorov-Smirnov distance of 4000 draws to the uniform law, below the 1e-4 quantile 2.23 / sqrt(n)."""
    settings = OrbitSettings(elevation_deg=(-10.0, 60.0), elevation=rule)
    elevation = sample_orbit(settings, 4000, torch.Generator().manual_seed(0)).elevation_deg.double()
    value = torch.deg2rad(elevation).sin() if flat == "sine" else elevation
    low, high = (math.sin(math.radians(-10)), math.sin(math.radians(60))) if flat == "sine" else (-10.0, 60.0)
    ranks = ((value - low) / (high - low)).sort().values
    distance = (ranks - (torch.arange(4000) + 0.5) / 4000).abs().max()
    assert distance < 2.23 / math.sqrt(4000)


def test_ranges_are_kept_and_the_reported_pose_is_the_real_one() -> None:
    settings = OrbitSettings(distance=(2.0, 3.0), fovy_deg=(30.0, 50.0), jitter_position=0.1)
    cameras = sample_orbit(settings, 200, torch.Generator().manual_seed(3))
    assert cameras.fovy_deg.min() >= 30 and cameras.fovy_deg.max() <= 50
    position = cameras.camera_to_world[:, :3, 3]
    torch.testing.assert_close(position.norm(dim=-1), cameras.distance)
    azimuth, elevation = torch.deg2rad(cameras.azimuth_deg), torch.deg2rad(cameras.elevation_deg)
    again = torch.stack([elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()], -1)
    torch.testing.assert_close(again * cameras.distance[:, None], position, atol=1e-5, rtol=1e-5)


def test_rotations_are_proper_for_batches_of_three() -> None:
    """A batch of exactly 3 once broke an axis-less cross product elsewhere."""
    cameras = sample_orbit(OrbitSettings(jitter_up=0.3), 3, torch.Generator().manual_seed(5))
    rotation = cameras.camera_to_world[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(3, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(3))


def test_wrap_degrees() -> None:
    turned = wrap_degrees(torch.tensor([0.0, 180.0, -180.0, 190.0, 540.0, -190.0]))
    assert turned.tolist() == [0.0, 180.0, 180.0, -170.0, 180.0, 170.0]


def test_indexing_and_moving_keep_every_field() -> None:
    cameras = turntable(6)
    some = cameras[2:4].to(dtype=torch.float64)
    assert isinstance(some, Cameras) and len(some) == 2
    assert some.camera_to_world.dtype == torch.float64
    assert some.azimuth_deg.tolist() == [120.0, 180.0]


def test_look_at_off_centre_target() -> None:
    pose = look_at(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 2.0, 0.0]]))
    torch.testing.assert_close(pose[0, :3, :3], torch.eye(3))


def test_a_ring_stands_at_given_heights_in_turn() -> None:
    """From one azimuth on, whatever is drawn: cameras that never change, both rings of a step alike."""
    how = OrbitSettings(ring=6, azimuth_deg=(30.0, 30.0), ring_elevations=(20.0, -10.0), fovy_deg=(30.0, 30.0))
    found = sample_orbit(how, 12, torch.Generator().manual_seed(3))
    assert found.azimuth_deg.tolist() == pytest.approx([30, 90, 150, -150, -90, -30] * 2, abs=1e-3)
    assert found.elevation_deg.tolist() == pytest.approx([20, -10] * 6, abs=1e-3)
    height = found.camera_to_world[:, 1, 3] / found.distance
    torch.testing.assert_close(height, torch.deg2rad(torch.tensor([20.0, -10.0] * 6)).sin(), rtol=0, atol=1e-5)
    plain = sample_orbit(replace(how, ring_elevations=()), 12, torch.Generator().manual_seed(3))
    torch.testing.assert_close(plain.distance, found.distance)  # no draw more, no draw less


def test_a_ring_shares_its_jitter_where_that_is_asked() -> None:
    """MVDream: azimuths 90 degrees apart, and one shift, target and up for all of a group, in the world's frame."""
    common = {"ring": 4, "distance": (3.0, 3.0), "jitter_position": 0.2, "jitter_target": 0.1, "jitter_up": 0.05}
    still = sample_orbit(OrbitSettings(ring=4, distance=(3.0, 3.0)), 8, torch.Generator().manual_seed(3))
    shared, own = (
        sample_orbit(OrbitSettings(**common, ring_jitter=flag), 8, torch.Generator().manual_seed(3))
        for flag in (True, False)
    )
    for cameras, spread in ((shared, False), (own, True)):
        shift = (cameras.camera_to_world - still.camera_to_world)[:, :3, 3].unflatten(0, (2, 4))
        assert shift.abs().amax() > 0.05 and shift.abs().amax() <= 0.2 + 1e-6
        assert ((shift - shift[:, :1]).abs().amax((1, 2)) > 0.05).tolist() == [spread, spread]
        assert (shift[0, 0] - shift[1, 0]).abs().max() > 0.01  # two groups are two draws
    # The target is the point that the lines of sight of a group pass: the same for all four, and not the origin.
    position, forward = shared.camera_to_world[:4, :3, 3], -shared.camera_to_world[:4, :3, 2]
    across = torch.eye(3) - forward[:, :, None] * forward[:, None, :]
    target = torch.linalg.solve(across.sum(0), (across @ position[:, :, None]).sum(0))[:, 0]
    off = (across @ (target - position)[:, :, None])[..., 0]
    assert off.abs().max() < 1e-4 and target.norm() > 0.02


@pytest.mark.parametrize("fixed", [0, 5])
def test_a_relative_distance_keeps_the_object_as_large_whatever_the_lens(fixed: int) -> None:
    """MVDream's radius U(0.8, 1) / tan(fovy / 2): half the view's height at the centre is 0.8 to 1 metres."""
    settings = OrbitSettings(distance=(0.8, 1.0), fovy_deg=(15.0, 60.0), relative=True, fixed=fixed)
    cameras = sample_orbit(settings, 200, torch.Generator().manual_seed(0))
    half = cameras.distance * torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)
    assert half.min() >= 0.8 - 1e-5 and half.max() <= 1.0 + 1e-5
    if fixed:
        torch.testing.assert_close(half, torch.full((200,), 0.9))
    else:
        assert half.max() - half.min() > 0.18 and cameras.distance.max() / cameras.distance.min() > 3
    torch.testing.assert_close(cameras.camera_to_world[:, :3, 3].norm(dim=-1), cameras.distance)


def test_a_clip_is_one_camera_at_even_times() -> None:
    """Two clips of four frames: the first camera of each as without clips, its times a quarter of a period apart."""
    plain, clips = OrbitSettings(moving=True), OrbitSettings(clip=4)
    single = sample_orbit(plain, 8, torch.Generator().manual_seed(3))
    drawn = sample_orbit(clips, 8, torch.Generator().manual_seed(3))
    for first in (0, 4):
        for frame in range(4):
            assert torch.equal(drawn.camera_to_world[first + frame], single.camera_to_world[first])
            expected = (single.time[first].item() + frame / 4) % 1.0  # type: ignore[index]
            assert drawn.time[first + frame].item() == pytest.approx(expected, abs=1e-6)  # type: ignore[index]
    assert not torch.equal(drawn.camera_to_world[0], drawn.camera_to_world[4])
