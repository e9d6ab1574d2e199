# SPDX-License-Identifier: Apache-2.0
"""`seen`: a plain loop, closed forms, native against the twin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cuda_ext import build
from cuda_ext.seen import seen
from dreamlab.core.cameras import Cameras
from renderers.surface.views import all_around

BACKENDS = ("native", "torch")
HOW = {"grazing": 0.15, "behind": 1.5}
Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _native() -> None:
    if build.compiler() is None:
        pytest.skip("no host compiler")


def of(cameras: Cameras, size: int) -> tuple[Tensor, Tensor, Tensor]:
    return cameras.camera_to_world[:, :3, 3], cameras.world_to_camera()[:, :3], cameras.focal_px(size)


def scene(count: int, views: int, size: int, seed: int = 0) -> Given:
    """Points of a ball of radius 0.8 and pictures with its depth and colours of noise; some pixels are not trusted."""
    g = torch.Generator().manual_seed(seed)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    cameras = all_around(views)
    origin, rays = cameras.rays(size, size)[0][:, None, None], cameras.rays(size, size)[1]
    half = (origin * rays).sum(-1)
    under = half.square() - origin.square().sum(-1) + 0.64
    forward = -cameras.camera_to_world[:, :3, 2][:, None, None]
    depth = torch.where(under > 0, (-half - under.clamp(min=0).sqrt()) * (rays * forward).sum(-1), 0.0)[..., None]
    good = (under > 0.02)[..., None] & (torch.rand(depth.shape, generator=g) > 0.02)
    layers = torch.cat([torch.rand(*depth.shape[:3], 3, generator=g), depth, good.float()], -1)
    return 0.8 * normals, normals, layers, *of(cameras, size)


def by_hand(given: Given, row: int) -> list[float]:
    """One point in plain Python."""
    points, normals, layers, eyes, to_camera, focal = (each.double().tolist() for each in given)
    size, out = len(layers[0]), [0.0] * 4
    for picture, eye, m, f in zip(layers, eyes, to_camera, focal, strict=True):
        way = [e - p for e, p in zip(eye, points[row], strict=True)]
        cosine = sum(n * w for n, w in zip(normals[row], way, strict=True)) / math.hypot(*way)
        x, y, z = (sum(a * b for a, b in zip(line, [*points[row], 1.0], strict=True)) for line in m)
        column, line = x / -z * f + size / 2 - 0.5, size / 2 - 0.5 - y / -z * f
        if cosine <= HOW["grazing"] or not (-0.5 < column < size - 0.5 and -0.5 < line < size - 0.5):
            continue
        column, line = (min(max(v, 0.0), size - 1.0) for v in (column, line))
        read = [0.0] * 5
        for r in (math.floor(line), math.floor(line) + 1):
            for c in (math.floor(column), math.floor(column) + 1):
                share = (1 - abs(line - r)) * (1 - abs(column - c))
                if share > 0:
                    read = [v + share * t for v, t in zip(read, picture[r][c], strict=True)]
        if read[4] <= 0.99 or -z > read[3] + HOW["behind"] * -z / f / cosine:
            continue
        weight = cosine**4 / z**2
        out = [v + weight * t for v, t in zip(out, [*read[:3], 1.0], strict=True)]
    return out


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_point_is_what_a_plain_loop_makes_of_it(backend: str) -> None:
    given = scene(60, 9, 24)
    found = seen(*given, backend=backend, **HOW)
    wanted = torch.tensor([by_hand(given, row) for row in range(60)])
    assert int((wanted[:, 3] > 0.05).sum()) > 30 and int((wanted[:, 3] == 0).sum()) < 20
    wrong = (found - wanted).abs().amax(1) > 1e-4 * (1 + wanted.abs().amax(1))
    assert int(wrong.sum()) <= 1, "rounding may decide of one that is barely hidden"


def test_native_is_the_twin_but_where_rounding_decides() -> None:
    given = scene(5000, 12, 64)
    ours, theirs = (seen(*given, backend=backend, **HOW) for backend in BACKENDS)
    assert ((ours - theirs).abs().amax(1) > 1e-4).float().mean() < 2e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_camera_over_a_plate_is_a_closed_form(backend: str) -> None:
    """Straight below the eye the weight is 1 / d^2; what is hidden or turned away has none."""
    camera = all_around(1)
    eye, size = camera.camera_to_world[0, :3, 3], 33
    way = torch.nn.functional.normalize(eye, dim=0)
    layers = torch.tensor([0.2, 0.4, 0.6, float(eye.norm()), 1.0]).expand(1, size, size, 5)
    points = torch.stack([0 * way, 0 * way, -0.5 * way, 100 * way])
    normals = torch.stack([way, -way, way, way])
    found = seen(points, normals, layers, *of(camera, size), backend=backend, **HOW)
    weight = 1 / float(eye.norm()) ** 2
    torch.testing.assert_close(found[0], weight * torch.tensor([0.2, 0.4, 0.6, 1.0]), atol=1e-6, rtol=1e-4)
    assert not found[1:].any()


def test_any_thread_count_gives_the_same_bits_and_what_is_not_finite_is_not_seen() -> None:
    points, normals, *rest = scene(9000, 6, 32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = seen(points, normals, *rest, backend="native", **HOW)
        torch.set_num_threads(3)
        assert torch.equal(one, seen(points, normals, *rest, backend="native", **HOW))
    finally:
        torch.set_num_threads(before)
    points[::3, 1], normals[1::3, 0] = float("nan"), float("inf")
    for backend in BACKENDS:
        found = seen(points, normals, *rest, backend=backend, **HOW)
        assert not found[::3].any() and found[2::3].isfinite().all()
        torch.testing.assert_close(found[2::3], one[2::3], atol=1e-4, rtol=1e-4)


def test_nothing_wrong_shapes_and_graphs() -> None:
    points, normals, *rest = scene(4, 2, 8)
    for backend in BACKENDS:
        assert seen(points[:0], normals[:0], *rest, backend=backend, **HOW).shape == (0, 4)
        assert not seen(points, normals, *(each[:0] for each in rest), backend=backend, **HOW).any()
    with pytest.raises(ValueError, match=r"seen: focal must be \[2\]"):
        seen(points, normals, *rest[:3], rest[3][:1], **HOW)
    with pytest.raises(ValueError, match="grazing must not be negative"):
        seen(points, normals, *rest, grazing=-0.1, behind=1.0)
    given = (points, normals, *(each.contiguous() for each in rest), 0.15, 1.5)
    torch.library.opcheck(torch.ops.dreamlab.seen.default, given, test_utils=("test_schema", "test_faketensor"))
