# SPDX-License-Identifier: Apache-2.0
"""Broken geometry through the raster family: no crash, no hang, nothing that is not finite, native as the twin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from cuda_ext.antialias import antialias
from cuda_ext.interpolate import interpolate
from cuda_ext.raster import Raster, raster
from cuda_ext.texture import texture
from tests.cuda_ext.raster_scenes import pixel_clip

ODD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40, 1e38, -1e38, 1e-8, 1e6, -1e6, 1.0, -1.0]
number = st.one_of(st.sampled_from(ODD), st.floats(-3, 3, width=32))
size = st.tuples(st.integers(1, 9), st.integers(1, 20))


@st.composite
def geometry(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Corners with any number in any place; triangles with repeated corners."""
    corners, count = draw(st.integers(1, 8)), draw(st.integers(0, 10))
    clip = draw(arrays(np.float32, (2, corners, 4), elements=st.floats(-3, 3, width=32), fill=st.nothing()))
    for _ in range(draw(st.integers(0, 6))):
        clip[draw(st.integers(0, 1)), draw(st.integers(0, corners - 1)), draw(st.integers(0, 3))] = draw(number)
    triangles = draw(arrays(np.int64, (count, 3), elements=st.integers(0, corners - 1)))
    return torch.tensor(clip), torch.tensor(triangles)


def run(clip: Tensor, triangles: Tensor, shape: tuple[int, int], backend: str) -> tuple[Raster, Tensor, Tensor]:
    leaf = clip.clone().requires_grad_()
    seen = raster(leaf, triangles, shape, backend=backend)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(clip.shape[1], 2, generator=generator)
    uv, slope = interpolate(table, seen, triangles, derivatives=True, backend=backend)
    assert slope is not None
    image = torch.randn(5, 4, 3, generator=generator)
    color = texture(image, uv, uv_dxy=slope.flatten(-2), backend=backend)
    picture = antialias(color, seen, leaf, triangles, backend=backend)
    (picture.sum() + seen.depth.sum()).backward()
    assert leaf.grad is not None
    return seen, picture.detach(), leaf.grad


@given(geometry(), size)
def test_broken_geometry_stays_outside(scene: tuple[Tensor, Tensor], shape: tuple[int, int]) -> None:
    clip, triangles = scene
    seen, picture, grad = run(clip, triangles, shape, "native")
    assert int(seen.triangle.min()) >= 0 and int(seen.triangle.max()) <= len(triangles)
    assert bool(torch.isfinite(picture).all())
    assert all(bool(torch.isfinite(x).all()) for x in seen)
    uv = seen.uv.detach()
    assert float(uv.min()) >= 0 and float(uv.sum(-1).max()) <= 1 + 1e-5
    broken = ~torch.isfinite(clip).all(-1)
    assert not grad[broken].any()  # what is left out gets no gradient
    for view in range(2):  # and is not seen
        for t in seen.triangle[view].unique().tolist():
            assert t == 0 or not broken[view][triangles[t - 1]].any()


@given(geometry(), size)
def test_native_sees_what_the_twin_sees(scene: tuple[Tensor, Tensor], shape: tuple[int, int]) -> None:
    clip, triangles = scene
    ours = raster(clip, triangles, shape, backend="native")
    twin = raster(clip, triangles, shape, backend="torch")
    # Coverage is exact; which of two surfaces is nearer may differ where they touch, one pixel in a hundred or so.
    assert torch.equal(ours.triangle > 0, twin.triangle > 0)
    different = ours.triangle != twin.triangle
    gap = (ours.depth - twin.depth).abs()
    assert float((gap * different).max()) < 1e-2
    assert all(bool(torch.isfinite(x).all()) for x in twin)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_zero_area_behind_and_enormous(backend: str) -> None:
    shape = (12, 17)
    line = pixel_clip([(1, 1), (8, 8), (15, 15)], shape)
    point = pixel_clip([(5, 5), (5, 5), (5, 5)], shape)
    behind = pixel_clip([(0, 0), (16, 0), (0, 12)], shape) * torch.tensor([1.0, 1.0, 1.0, -1.0])
    tiny = pixel_clip([(3.5, 3.5), (3.501, 3.5), (3.5, 3.501)], shape)  # below the snapping grid
    clip = torch.cat([line, point, behind, tiny], 1)
    triangles = torch.arange(12).reshape(4, 3)
    assert not raster(clip, triangles, shape, backend=backend).triangle.any()
    for scale in (1e3, 1e5, 1e7, 1e12, 1e30):  # beyond the guard band, beyond float squares
        cover = torch.tensor([[[-scale, -scale, 0, 1], [scale, -scale, 0, 1], [0, scale, 0, 1.0]]])
        seen = raster(cover, torch.tensor([[0, 1, 2]]), shape, backend=backend)
        assert bool((seen.triangle == 1).all()), scale
        assert all(bool(torch.isfinite(x).all()) for x in seen)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_needles_share_edges_exactly(backend: str) -> None:
    """A fan of needles around a point covers the picture once, however it snaps."""
    shape = (19, 23)
    generator = torch.Generator().manual_seed(0)
    for spread in (3.0, 300.0, 3e5):
        angle = torch.rand(40, generator=generator).sort().values * 2 * math.pi
        angle = torch.cat([angle, torch.linspace(0, 2 * math.pi, 9)[:-1]]).sort().values
        rim = [(9.3 + spread * 40 * math.cos(a), 8.7 + spread * 40 * math.sin(a)) for a in angle.tolist()]
        parts = [pixel_clip([(9.3, 8.7), rim[i - 1], rim[i]], shape) for i in range(len(rim))]
        alone = raster(torch.cat(parts), torch.tensor([[0, 1, 2]]), shape, backend=backend).triangle
        assert torch.equal(alone.sum(0), torch.ones(shape, dtype=torch.int64))


@given(st.integers(0, 2**31), st.sampled_from([0.3, 3.0, 100.0, 1e5, 1e8]), size)
def test_a_closed_surface_is_entered_as_often_as_left(seed: int, spread: float, shape: tuple[int, int]) -> None:
    """An icosahedron with its corners thrown anywhere, each triangle drawn alone: fronts and backs balance per pixel.

    One crack or double hit on one of its 30 edges would show. The corners lie between the near and the far plane.
    """
    triangles = torch.tensor(trimesh.creation.icosahedron().faces)
    clip = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed)) * spread
    clip[:, 3] = clip[:, 3].abs() + 0.1
    clip[:, 2] = clip[:, 2].clamp(-1, 1) * clip[:, 3] * 0.9
    corner = clip[triangles]
    side = torch.linalg.det(corner[..., [0, 1, 3]].double()).sign()
    alone = raster(corner, torch.tensor([[0, 1, 2]]), shape, backend="native").triangle
    assert not (alone * side[:, None, None]).sum(0).any()
