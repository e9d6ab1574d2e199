# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of hash grid and march without a GPU: their bodies, compiled by the host compiler with one thread
after the other, agree with the torch twins.

That checks indexing and arithmetic, not the launch: block sizes, streams and atomics need a device.
"""

import ctypes
import math

import pytest
import torch

from cuda_ext import build
from cuda_ext import hashgrid as hashgrid_ops
from cuda_ext import march as march_ops
from cuda_ext.hashgrid import LAYOUTS, HashGrid, encode
from cuda_ext.march import Samples, composite, march
from tests import cuda_on_host

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")
BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))


def on_host(op, kernel, params, items, levels=1, threads=32):
    blocks = (items + threads - 1) // threads
    cuda_on_host.launch(op, f"dl_{kernel}", torch.device("cpu"), (blocks, levels, 1), (threads, 1, 1), [params])


@needs_compiler
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("smoothstep", [False, True])
@pytest.mark.parametrize("levels", [4, 5])  # 5 x 2 features are no whole number of vectors of 4
@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_hashgrid_kernels_match_the_twin(features, levels, smoothstep, layout):
    grid = HashGrid(levels, features, 8, 3, 29, smoothstep, layout)
    active, count = levels - 1, 77
    g = torch.Generator().manual_seed(0)
    x, table = torch.rand(count, 3, generator=g) * 1.1 - 0.05, torch.randn(grid.rows, features, generator=g)
    grad, turn = torch.randn(count, grid.width, generator=g), torch.randn(count, 3, generator=g)

    def run(kernel, out, direction=None):
        params = hashgrid_ops._params(hashgrid_ops._layout(grid, active), features, x, table, grad, direction, out)
        parts = 1 if kernel == "position_gradient" else hashgrid_ops.thread_parts(grid.levels, features)
        on_host("hashgrid", f"hashgrid_{kernel}", params, count, parts)
        return out

    leaves = [t.double().requires_grad_() for t in (x, table, grad)]
    y = encode(*leaves[:2], grid, active_levels=active, backend="torch")
    to_x, to_table = torch.autograd.grad(y, leaves[:2], leaves[2], create_graph=True)
    second = torch.autograd.grad(to_x, leaves, turn.double())
    pairs = [
        (run("encode", torch.empty_like(grad)), y),
        (run("position_gradient", torch.empty_like(x)), to_x),
        (run("table_gradient", torch.zeros_like(table)), to_table),
        (run("position_gradient", torch.empty_like(x), turn), second[0]),
        (run("table_gradient", torch.zeros_like(table), turn), second[1]),
        (run("encode", torch.empty_like(grad), turn), second[2]),
    ]
    for i, (ours, twin) in enumerate(pairs):
        assert (ours - twin).abs().max() <= 1e-6 * twin.abs().max(), f"pair {i}"


@needs_compiler
@pytest.mark.parametrize("cone", [0.0, 0.01])
def test_march_and_composite_kernels_match_the_twins(cone):
    g = torch.Generator().manual_seed(0)
    rays, step = 90, 0.02
    origins = torch.nn.functional.normalize(torch.randn(rays, 3, generator=g), dim=1) * 3
    directions = torch.nn.functional.normalize(torch.rand(rays, 3, generator=g) * 2 - 1 - origins, dim=1)
    occupied, jitter = torch.rand(20, 33, 8, generator=g) < 0.1, torch.rand(rays, generator=g)
    twin = march(origins, directions, occupied, BOX, step=step, cone=cone, jitter=jitter, backend="torch")
    steps, count = march_ops.steps_bound(BOX, step), len(twin.t_start)
    offsets, words = torch.zeros(rays + 1, dtype=torch.int64), (steps + 63) // 64
    kept, ends = torch.empty(rays, words, dtype=torch.int64), torch.empty(2, count)
    ray = torch.empty(count, dtype=torch.int64)
    coarse = [march_ops._any_in_blocks(occupied)]
    coarse.append(march_ops._any_in_blocks(coarse[0]))
    p = build.pointer
    params = march_ops._MarchParams(
        p(origins), p(directions), p(jitter), p(occupied), (ctypes.c_void_p * 2)(*map(p, coarse)), p(kept), p(offsets),
        p(ends[0]), p(ends[1]), p(ray), rays, count, (ctypes.c_int32 * 3)(*occupied.shape), steps, words,
        (ctypes.c_float * 3)(*BOX[0]), (ctypes.c_float * 3)(*BOX[1]), step, 0.0, math.inf, cone,
    )  # fmt: skip
    on_host("march", "march_mark", params, rays)
    offsets.copy_(offsets.cumsum(0))
    on_host("march", "march_write", params, 32 * rays)
    assert torch.equal(offsets, twin.offsets)
    assert torch.equal(ends[0], twin.t_start) and torch.equal(ends[1], twin.t_end)
    assert torch.equal(ray, twin.ray_index())

    sigma, rgb = 30 * torch.rand(count, generator=g) - 1, torch.rand(count, 3, generator=g)
    cotangents = [torch.randn(rays, 3, generator=g), torch.randn(rays, 4, generator=g), torch.randn(count, generator=g)]
    out, sums, weights = torch.empty(rays, 3), torch.empty(rays, 4), torch.zeros(count)
    grads = {"grad_sigma": torch.zeros(count), "grad_rgb": torch.zeros(count, 3), "light": torch.empty(count)}
    inputs = (sigma, rgb, *ends, offsets, 1e-3)
    given = dict(zip(("grad_out", "grad_sums", "grad_weights"), cotangents, strict=True))
    params = march_ops._composite_params(*inputs, out=out, sums=sums, weights=weights, **given, **grads)
    on_host("march", "composite", params, 32 * rays)
    on_host("march", "composite_backward", params, 32 * rays)
    s, c = sigma.double().requires_grad_(), rgb.double().requires_grad_()
    exact = Samples(offsets, *ends.double())
    picture = composite(s, c, exact, stop=1e-3, backend="torch")
    three = torch.cat([picture.alpha, picture.depth, picture.distortion], 1)
    outputs, theirs = [picture.rgb, three, picture.weights], [t.double() for t in cotangents]
    theirs[1] = theirs[1][:, :3]
    expected = torch.autograd.grad(outputs, (s, c), theirs)
    ours = (out, sums[:, :3], weights, grads["grad_sigma"], grads["grad_rgb"])
    for mine, twin_value in zip(ours, (*outputs, *expected), strict=True):
        torch.testing.assert_close(mine.double(), twin_value, rtol=2e-5, atol=2e-6)


@needs_compiler
def test_intervals_of_no_ray_are_cleared():
    rays, used, count = 3, 50, 400  # more padding than the rays' warps have lanes
    offsets = torch.tensor([0, 20, 20, used])
    ends = torch.arange(count + 1) / 100.0
    sigma, rgb = torch.ones(count), torch.ones(count, 2)
    dirty = {"weights": torch.full((count,), 7.0), "grad_sigma": torch.full((count,), 7.0)}
    dirty["grad_rgb"] = torch.full((count, 2), 7.0)
    rest = {"out": torch.empty(rays, 2), "sums": torch.empty(rays, 4), "light": torch.empty(count)}
    rest["grad_out"] = torch.ones(rays, 2)
    inputs = (sigma, rgb, ends[:-1].contiguous(), ends[1:].contiguous(), offsets, 1e-4)
    params = march_ops._composite_params(*inputs, **rest, **dirty)
    on_host("march", "composite", params, 32 * rays)
    on_host("march", "composite_backward", params, 32 * rays)
    for name, tensor in dirty.items():
        assert not tensor[used:].any() and (tensor[:used] < 7).all() and tensor[:used].any(), name
