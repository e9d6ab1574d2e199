# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the raster family and of `volume` without a GPU: their bodies run on the host.

`test_device_paths.py` runs the same kernels through the ops' CUDA launchers; here each is held against the CPU's alone.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor

from cuda_ext import antialias, build, interpolate, raster, texture, volume
from cuda_ext.reference import raster as reference
from tests import cuda_on_host
from tests.cuda_ext.raster_scenes import assert_close_except, mesh_tensors, soup, sphere, to_clip, views


def run(
    op: str, kernel: str, params: ctypes.Structure, tensors: list[Tensor | None], items: int, block: int = 64
) -> None:
    """As `raster.run` does on CUDA."""
    arguments: list[Any] = [params, *(ctypes.c_void_p(build.pointer(t)) for t in tensors)]
    blocks = (items + block - 1) // block
    cuda_on_host.launch(op, kernel, torch.device("cpu"), (blocks, 1, 1), (block, 1, 1), arguments)


def scene(name: str) -> tuple[Tensor, Tensor, tuple[int, int]]:
    size = (37, 50)
    if name == "sphere":
        vertices, triangles = mesh_tensors(sphere(2))
        return to_clip(vertices, views(2), size), triangles.int(), size
    clip, triangles = soup(30, torch.Generator().manual_seed(3), behind=True)
    return clip, triangles.int(), size


@pytest.mark.parametrize("name", ["sphere", "behind"])
def test_raster_kernels(name: str) -> None:
    clip, triangles, size = scene(name)
    params = raster._params(clip, triangles, *size)
    shape, count = (len(clip), *size), len(clip) * len(triangles)
    corners = torch.zeros(*clip.shape, dtype=torch.int32)
    key, large = torch.full(shape, -1, dtype=torch.int64), torch.zeros(count + 1, dtype=torch.int64)
    triangle = torch.full(shape, -7, dtype=torch.int32)
    run("raster", "dl_raster_project", params, [corners], clip.shape[0] * clip.shape[1])
    run("raster", "dl_raster_small", params, [corners, key, large], count)
    assert (int(large[0]) > 0) == (name == "behind")
    run("raster", "dl_raster_large", params, [corners, key, large], 5 * 64)
    run("raster", "dl_raster_resolve", params, [key, triangle], triangle.numel())
    ours = raster.raster(clip, triangles, size, backend="native")
    assert int((triangle != ours.triangle).sum()) <= (0 if name == "sphere" else 4)
    uv, depth, slope = raster._barycentrics_like(clip, triangles, ours.triangle)
    run("raster", "dl_raster_barycentrics", params, [ours.triangle, uv, depth, slope], depth.numel())
    for field, a, b in zip(("uv", "depth", "uv_dxy"), (uv, depth, slope), ours[1:], strict=True):
        assert_close_except(a, b, 0, field, 1e-5)
    grads = [torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for x in (uv, depth)]
    grad = torch.zeros_like(clip)
    run("raster", "dl_raster_barycentrics_backward", params, [ours.triangle, *grads, grad], depth.numel())
    # Two sums of float32 in other orders are each held against the truth: 1.2e-5 and 0.7e-5 (AVX2) from it were seen.
    exact = clip.detach().double().requires_grad_()
    found = reference.barycentrics(exact, triangles, ours.triangle)[:2]
    expected = torch.autograd.grad(found, exact, [each.double() for each in grads])[0]
    native = torch.ops.dreamlab.raster_barycentrics_backward(clip, triangles, ours.triangle, *grads)
    for each in (grad, native):
        assert_close_except(each.double(), expected, 0, "grad clip", 2e-5)


def test_interpolate_kernels() -> None:
    clip, triangles, size = scene("sphere")
    seen = raster.raster(clip, triangles, size, backend="native")
    attributes = torch.randn(1, clip.shape[1], 5, generator=torch.Generator().manual_seed(0))
    inputs = (attributes, triangles, seen.triangle, seen.uv, seen.uv_dxy)
    params, items = interpolate._params(*inputs), seen.triangle.numel()
    value, slope = interpolate._like(*inputs)
    run("interpolate", "dl_interpolate", params, [value, slope], items)
    ours = torch.ops.dreamlab.interpolate(*inputs)
    assert_close_except(value, ours[0], 0, "value", 1e-6)
    assert_close_except(slope, ours[1], 0, "slope", 1e-6)
    grads = [torch.zeros_like(attributes), torch.zeros_like(seen.uv)]
    run("interpolate", "dl_interpolate_backward", params, [value, slope, *grads], items)
    expected = torch.ops.dreamlab.interpolate_backward(*inputs, value, slope)
    for a, b in zip(grads, expected, strict=True):
        assert_close_except(a, b, 0, "gradient", 1e-5)


def test_texture_kernels() -> None:
    generator = torch.Generator().manual_seed(0)
    image, levels = torch.randn(2, 21, 10, 3, generator=generator), 5
    pyramid = torch.zeros(texture._pyramid_like(image, levels).shape)
    pyramid[:, :210] = image.flatten(1, 2)
    params = texture._params(pyramid, None, None, 21, 10, levels, False)
    for level in range(1, levels):
        params.levels = level
        run("texture", "dl_texture_pyramid", params, [pyramid], 2 * (21 >> level) * max(1, 10 >> level))
    assert_close_except(pyramid, torch.ops.dreamlab.texture_pyramid(image, levels), 0, "pyramid", 1e-6)
    uv, level_map = torch.randn(2, 9, 8, 2, generator=generator), torch.rand(2, 9, 8, generator=generator) * 5
    inputs = (pyramid, uv, level_map, 21, 10, levels, True)
    params, out = texture._params(*inputs), torch.zeros(2, 9, 8, 3)
    run("texture", "dl_texture_fetch", params, [out], 144)
    assert_close_except(out, torch.ops.dreamlab.texture_fetch(*inputs), 0, "fetch", 1e-6)
    grads = [torch.zeros_like(x) for x in (pyramid, uv, level_map)]
    run("texture", "dl_texture_fetch_backward", params, [out, *grads], 144)
    for a, b in zip(grads, torch.ops.dreamlab.texture_fetch_backward(*inputs, out), strict=True):
        assert_close_except(a, b, 0, "gradient", 1e-5)
    slope, level_grad = torch.randn(2, 9, 8, 4, generator=generator), torch.zeros(2, 9, 8, 4)
    slope[0, 0] = 0
    params = texture._level_params(slope, 21, 10)
    run("texture", "dl_texture_level", params, [slope, level_map], 144)
    assert_close_except(level_map, torch.ops.dreamlab.texture_level(slope, 21, 10), 0, "level", 1e-6)
    run("texture", "dl_texture_level_backward", params, [slope, level_map, level_grad], 144)
    expected = torch.ops.dreamlab.texture_level_backward(slope, 21, 10, level_map)
    assert_close_except(level_grad, expected, 0, "gradient of the level", 1e-6)
    coarse, folded = grads[0][:, 210:].clone(), torch.zeros(2, 21, 10, 3)
    params = texture._params(grads[0], None, None, 21, 10, levels, False)
    for level in range(levels - 1, 0, -1):
        params.levels = level
        items = 2 * (21 >> level - 1) * max(1, 10 >> level - 1)
        run("texture", "dl_texture_pyramid_backward", params, [grads[0], coarse, folded], items)
    expected = torch.ops.dreamlab.texture_pyramid_backward(grads[0], 21, 10, levels)
    assert_close_except(folded, expected, 0, "folded", 1e-5)


@pytest.mark.parametrize("name", ["sphere", "behind"])
def test_antialias_kernels(name: str) -> None:
    clip, triangles, size = scene(name)
    seen = raster.raster(clip, triangles, size, backend="native")
    neighbours = antialias.edge_neighbours(triangles)
    params = antialias._params(clip, triangles, neighbours, seen.triangle, 3)
    sides, states = torch.zeros(2, len(triangles), dtype=torch.uint8), torch.zeros(2, len(triangles), dtype=torch.uint8)
    pairs = torch.full((*seen.triangle.shape, 2), -1, dtype=torch.int32)
    run("antialias", "dl_antialias_facing", params, [sides], sides.numel())
    run("antialias", "dl_antialias_states", params, [sides, states], sides.numel())
    run(
        "antialias",
        "dl_antialias_silhouettes",
        params,
        [seen.triangle, seen.depth, states, pairs],
        seen.triangle.numel(),
    )
    ours = torch.ops.dreamlab.antialias_silhouettes(seen.triangle, seen.depth, clip, triangles, neighbours)
    assert int((ours > 0).sum()) > 50
    assert int((pairs != ours).sum()) <= 0.01 * int((ours > 0).sum())
    color = torch.rand(*size, 3, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1).contiguous()
    out, grad = torch.zeros_like(color), torch.randn(color.shape, generator=torch.Generator().manual_seed(1))
    run("antialias", "dl_antialias_blend", params, [color, ours, out], seen.triangle.numel())
    assert_close_except(out, torch.ops.dreamlab.antialias_blend(color, clip, triangles, ours), 0, "blend", 1e-5)
    grads = [torch.zeros_like(color), torch.zeros_like(clip)]
    run("antialias", "dl_antialias_blend_backward", params, [color, ours, grad, *grads], seen.triangle.numel())
    expected = torch.ops.dreamlab.antialias_blend_backward(color, clip, triangles, ours, grad)
    for a, b in zip(grads, expected, strict=True):
        assert_close_except(a, b, 0, "gradient", 1e-5)


@pytest.mark.parametrize("channels", [2, 7, 40])  # of a warp's 32 lanes
def test_volume_kernels(channels: int) -> None:
    g = torch.Generator().manual_seed(0)
    grid, row = torch.randn(3, 5, 6, 4, channels, generator=g), torch.tensor([2, 0, 2])
    near, direction = (0.5 * torch.randn(3, 40, 3, generator=g) for _ in range(2))
    inputs = (grid, row, near, torch.nn.functional.normalize(direction, dim=-1), 14, 1.0, 2.0, 1.2)
    params, out = volume._params(*inputs), torch.full((3, 40, channels + 1), 7.0)
    run("volume", "dl_volume", params, [out], 32 * 120)
    assert_close_except(out, torch.ops.dreamlab.volume(*inputs), 0, "value", 1e-5)
    found = torch.zeros_like(grid)
    run("volume", "dl_volume_backward", params, [out, found], 32 * 120)
    assert_close_except(found, torch.ops.dreamlab.volume_backward(*inputs, out), 0, "grad grid", 1e-4)
