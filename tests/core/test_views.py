# SPDX-License-Identifier: Apache-2.0
"""The view schedule of image-to-3D: shares, ranges that grow, and which rows a term sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given as example
from hypothesis import strategies as st

from dreamlab.core.cameras import OrbitSettings, orbit, sample_orbit
from dreamlab.core.errors import InputError
from dreamlab.core.schedules import Progress, constant, ramp
from dreamlab.core.types import Frames, Reference
from dreamlab.core.views import GivenViews, chosen, given_count, joined, narrowed, sample_views
from dreamlab.run.train import draw_background


def reference(azimuth: float = 20.0, elevation: float = 5.0) -> Reference:
    return Reference(torch.rand(8, 8, 3), torch.ones(8, 8, 1), orbit([azimuth], elevation, 3.8, 20.0))


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@example(st.floats(0, 1), st.integers(1, 16))
def test_the_mean_number_of_given_views_is_the_share(share: float, views: int) -> None:
    counts = [given_count(share, views, step) for step in range(1000)]
    assert abs(sum(counts) / 1000 - share * views) < 0.01  # a golden sequence: the error falls as log n / n
    assert max(counts) - min(counts) <= 1 and max(counts) <= views


def test_half_of_one_view_alternates_and_whole_shares_never_change() -> None:
    alone = [given_count(0.5, 1, step) for step in range(40)]
    assert 19 <= sum(alone) <= 21 and all(sum(alone[i : i + 3]) in (1, 2) for i in range(38))
    assert {given_count(0.25, 4, step) for step in range(200)} == {1}


def test_ranges_grow_from_the_pictures_camera_to_the_orbits_own() -> None:
    wanted, camera = OrbitSettings(elevation_deg=(-10, 60)), reference(20, 5).camera
    assert narrowed(wanted, camera, 1.0) is wanted
    half = narrowed(wanted, camera, 0.5)
    assert half.azimuth_deg == pytest.approx((20 - 90, 20 + 90)) and half.elevation_deg == pytest.approx((-2.5, 32.5))
    none = narrowed(wanted, camera, 0.0)
    assert none.azimuth_deg == pytest.approx((20, 20)) and none.elevation_deg == pytest.approx((5, 5))
    part = narrowed(replace(wanted, azimuth_deg=(-60, 100)), camera, 0.5)
    assert part.azimuth_deg == pytest.approx((-20, 60))  # not a whole circle: its own ends, half way


def test_the_pictures_camera_comes_first_and_the_others_keep_their_distance() -> None:
    views = GivenViews(share=ramp(0.5, 0.25), widen=ramp(0.0, 1.0))
    start, own = sample_views(OrbitSettings(), views, 4, reference(), Progress(0, 100), stream())
    assert own == 2 and len(start) == 4
    torch.testing.assert_close(start.azimuth_deg, torch.full((4,), 20.0), rtol=0, atol=1e-4)
    assert start.distance[:2].tolist() == pytest.approx([3.8, 3.8]) and start.fovy_deg[:2].tolist() == [20.0, 20.0]
    assert ((start.distance[2:] >= 3.0) & (start.distance[2:] <= 3.6)).all()
    end, own = sample_views(OrbitSettings(), views, 4, reference(), Progress(100, 100), stream())
    assert own == 1 and (end.azimuth_deg[1:] - 20).abs().max() > 60
    only, own = sample_views(OrbitSettings(), GivenViews(share=constant(1.0)), 3, reference(), Progress(0, 1), stream())
    assert own == len(only) == 3


def test_so_many_given_views_stand_beside_whole_rings() -> None:
    """One of seven in every step, which no share of a float says; the ring is drawn by itself, before one colour."""
    ring = OrbitSettings(ring=6, azimuth_deg=(30.0, 30.0), elevation_deg=(0.0, 0.0))
    for i in range(40):
        found, own = sample_views(ring, GivenViews(views=1), 7, reference(), Progress(i, 40), stream())
        assert own == 1 and found.azimuth_deg.tolist() == pytest.approx([20, 30, 90, 150, -150, -90, -30], abs=1e-3)
    behind = draw_background("random", 7, 6, stream(), 1)
    assert torch.equal(behind[1:], behind[1:2].expand(6, -1)) and not torch.equal(behind[0], behind[1])
    assert GivenViews(views=1).always(7) == 1 and GivenViews(share=constant(0.25)).always(8) == 2
    assert GivenViews(share=ramp(0.25, 0.5)).always(8) is None and GivenViews(share=constant(0.3)).always(4) is None


def test_without_a_share_the_cameras_are_those_of_the_orbit() -> None:
    plain = sample_orbit(OrbitSettings(), 4, stream())
    same, own = sample_views(OrbitSettings(), GivenViews(), 4, None, Progress(0, 10), stream())
    assert own == 0 and torch.equal(plain.camera_to_world, same.camera_to_world)
    with pytest.raises(InputError, match="no picture"):
        sample_views(OrbitSettings(), GivenViews(share=constant(0.5)), 4, None, Progress(0, 10), stream())


def test_a_picture_without_a_time_stands_at_the_beginning_of_the_motion() -> None:
    moving = replace(orbit([10.0, 50.0]), time=torch.tensor([0.3, 0.6]))
    assert joined(orbit([0.0]), moving).time.tolist() == pytest.approx([0.0, 0.3, 0.6])  # type: ignore[union-attr]
    assert joined(orbit([0.0]), orbit([9.0])).time is None


def test_terms_see_their_rows() -> None:
    assert chosen("all", 0, 6, 2, stream()) is None
    assert chosen("given", 0, 6, 2, stream()) == [0, 1] and chosen("others", 0, 6, 2, stream()) == [2, 3, 4, 5]
    assert chosen("given", 0, 6, 0, stream()) == [] and chosen("others", 0, 6, 0, stream()) is None
    drawn = [chosen("others", 2, 6, 2, generator) for generator in [stream()] for _ in range(60)]
    assert all(rows == sorted(set(rows)) and len(rows) == 2 and min(rows) >= 2 for rows in drawn if rows is not None)
    assert {row for rows in drawn if rows is not None for row in rows} == {2, 3, 4, 5}
    assert chosen("all", 8, 6, 2, stream()) is None


def test_frames_are_taken_by_view() -> None:
    rgb, latent = torch.rand(3, 2, 2, 3), torch.rand(3, 2, 2, 4)
    frames = Frames(rgb, rgb[..., :1], rgb[..., 1:2], torch.rand(3, 3), rgb, None, {"latent": latent, "other": latent})
    some = frames.take([2, 0])
    for name in ("rgb", "alpha", "depth", "background", "normal"):
        assert torch.equal(getattr(some, name), getattr(frames, name)[[2, 0]])
    assert torch.equal(some.extra["latent"], latent[[2, 0]]) and "other" not in some.extra


def test_views_that_are_seen_together_stand_before_one_colour() -> None:
    def drawn(together: int, kind: str = "random") -> torch.Tensor:
        return draw_background(kind, 8, together, torch.Generator().manual_seed(3))

    single, four = drawn(1), drawn(4)
    assert len(single.unique(dim=0)) == 8 and len(four.unique(dim=0)) == 2
    assert torch.equal(four[::4], single[::4]) and torch.equal(four[4:], single[4:5].expand(4, -1))
    assert torch.equal(drawn(4, "white"), torch.ones(8, 3))
