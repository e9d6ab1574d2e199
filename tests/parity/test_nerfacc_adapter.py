# SPDX-License-Identifier: Apache-2.0
"""Compositing against nerfacc's batched functions, which run on a CPU; and the nerfacc adapter.

nerfacc's packed functions and its traversal need CUDA. Behind the adapter stand its own batched functions, on samples
padded to [R, S], and its traversal's rule written out ray by ray (`traverse_grids_kernel`, 0.5.3: steps from the near
plane, an interval counts where its middle lies in an occupied cell before the far plane). `test_on_a_device` calls the
real ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from cuda_ext import build, march_nerfacc
from cuda_ext.march import Samples, composite, march

nerfacc = pytest.importorskip("nerfacc", reason="needs nerfacc (pip install nerfacc)")
BOX = ((-1.0, -0.8, -1.0), (1.0, 1.2, 0.9))
BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")),
]


@dataclass(frozen=True)
class Edges:
    vals: Tensor
    packed_info: Tensor
    ray_indices: Tensor
    is_left: Tensor
    is_right: Tensor


class OnCpu:
    """nerfacc where it runs without CUDA."""

    accumulate_along_rays = staticmethod(nerfacc.accumulate_along_rays)

    @staticmethod
    def render_weight_from_density(
        t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        index, there = grid_of(packed_info, len(sigmas))
        padded = [torch.where(there, values[index], 0) for values in (t_starts, t_ends, sigmas)]
        return tuple(unpadded(found, index, there, sigmas) for found in nerfacc.render_weight_from_density(*padded))

    @staticmethod
    def exclusive_sum(inputs: Tensor, packed_info: Tensor) -> Tensor:
        index, there = grid_of(packed_info, len(inputs))
        return unpadded(nerfacc.exclusive_sum(torch.where(there, inputs[index], 0)), index, there, inputs)

    @staticmethod
    def traverse_grids(
        rays_o: Tensor, rays_d: Tensor, binaries: Tensor, aabbs: Tensor, near_planes: Tensor, far_planes: Tensor,
        step_size: float, cone_angle: float, *, t_sorted: Tensor, t_indices: Tensor, hits: Tensor,
    ) -> tuple[Edges, Edges, Tensor]:  # fmt: skip
        assert binaries.shape[0] == 1 == len(aabbs) and t_indices.tolist() == [[0, 1]] * len(rays_o)
        low, high = aabbs[0, :3].double().numpy(), aabbs[0, 3:].double().numpy()
        size = np.array(binaries.shape[1:])
        left, right, owner, counts = [], [], [], []
        for r in range(len(rays_o)):
            origin, direction = rays_o[r].double().numpy(), rays_d[r].double().numpy()
            enter, leave = max(float(t_sorted[r, 0]), float(near_planes[r])), float(t_sorted[r, 1])
            t, found = float(near_planes[r]), 0
            while bool(hits[r, 0]):
                width = max(t * cone_angle, step_size)
                middle = t + width / 2
                if middle >= min(leave, float(far_planes[r])):
                    break
                cell = np.clip(((origin + direction * middle - low) / (high - low) * size).astype(int), 0, size - 1)
                if middle >= enter and binaries[0][tuple(cell)]:
                    left, right, owner, found = [*left, t], [*right, t + width], [*owner, r], found + 1
                t += width
            counts.append(found)
        edges = torch.tensor([left, right]).T.reshape(-1).to(rays_o)  # every interval with both of its edges
        which = torch.arange(len(edges)) % 2 == 0
        count = torch.tensor(counts)
        packed = torch.stack([count.cumsum(0) - count, count], 1)
        segments = Edges(edges, packed, torch.tensor(owner, dtype=torch.int64), which, ~which)
        return segments, segments, near_planes


def grid_of(packed_info: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[R, S] rows of packed samples, and which of them there are."""
    first, counts = packed_info.unbind(1)
    column = torch.arange(int(counts.max()) if len(counts) else 0)
    there = column < counts[:, None]
    return torch.where(there, first[:, None] + column, 0).clamp(max=max(count - 1, 0)), there


def unpadded(values: Tensor, index: Tensor, there: Tensor, like: Tensor) -> Tensor:
    """[M] of [R, S]; samples of no ray are left as the package leaves them, uninitialised: not a number."""
    return torch.full_like(like, math.nan).index_put((index[there],), values[there])


def rays(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Origins and directions, of which some miss, one is no number and one runs along an axis; occupancy, jitter."""
    g = torch.Generator().manual_seed(1)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=1) * 3
    directions = torch.nn.functional.normalize(torch.rand(count, 3, generator=g) * 2.4 - 1.2 - origins, dim=1)
    origins[0], directions[0] = torch.tensor([0.1, 0.23, -4.0]), torch.tensor([0.0, 0.0, 1.0])
    origins[1] = torch.tensor([0.1, 0.13, 0.15])  # from within
    origins[2, 1] = math.nan
    directions[3] = -directions[3]
    occupied = torch.rand(7, 12, 9, generator=g) < 0.3
    return origins, directions, occupied, torch.rand(count, generator=g)


def same(found: Samples, ours: Samples, slack: int) -> None:
    """The same intervals; at most `slack` rays may hold one more or less, where a middle lies on a border."""
    differ = found.offsets.diff() != ours.offsets.diff()
    assert differ.sum() <= slack
    for r in (~differ).nonzero()[:, 0].tolist():
        mine, theirs = (slice(int(s.offsets[r]), int(s.offsets[r + 1])) for s in (ours, found))
        torch.testing.assert_close(found.t_start[theirs], ours.t_start[mine], rtol=0, atol=2e-5)
        torch.testing.assert_close(found.t_end[theirs], ours.t_end[mine], rtol=0, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("cone", "near", "far"), [(0.0, 0.0, math.inf), (0.02, 2.1, 3.4)])
def test_marching_by_the_adapter_finds_our_samples(backend: str, cone: float, near: float, far: float) -> None:
    origins, directions, occupied, jitter = rays(60)
    for shift in (None, jitter):
        how = {"step": 0.07, "near": near, "far": far, "cone": cone, "jitter": shift}
        ours = march(origins, directions, occupied, BOX, backend=backend, **how)  # type: ignore[arg-type]
        found = march_nerfacc.march(origins, directions, occupied, BOX, package=OnCpu(), **how)  # type: ignore[arg-type]
        assert ours.offsets[-1] > 200 and (ours.offsets.diff() == 0).any()
        same(found, ours, slack=1)


def test_the_adapter_keeps_to_a_capacity() -> None:
    origins, directions, occupied, _ = rays(20)
    whole = march(origins, directions, occupied, BOX, step=0.1, backend="torch")
    for capacity in (int(whole.offsets[-1]) - 9, int(whole.offsets[-1]) + 9):
        ours = march(origins, directions, occupied, BOX, step=0.1, capacity=capacity, backend="torch")
        found = march_nerfacc.march(origins, directions, occupied, BOX, step=0.1, capacity=capacity, package=OnCpu())
        assert torch.equal(found.offsets, ours.offsets) and len(found.t_start) == capacity
        torch.testing.assert_close(found.t_start, ours.t_start, rtol=0, atol=1e-5)
    none = march_nerfacc.march(origins[:0], directions[:0], occupied, BOX, step=0.1, package=OnCpu())
    assert none.offsets.tolist() == [0] and len(none.t_start) == 0


def packed_samples(dtype: torch.dtype, padding: int = 0) -> tuple[Samples, Tensor, Tensor]:
    """Rays of 0 to 40 intervals with gaps, densities of which some are negative, colours."""
    g = torch.Generator().manual_seed(2)
    counts = torch.tensor([0, 1, 40, 13, 0, 25, 40])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    gaps = [torch.rand(int(n), generator=g, dtype=dtype) * 0.08 for n in counts]
    start = torch.cat([3 + gap.cumsum(0) + 0.05 * torch.arange(len(gap)) for gap in gaps])
    spare = start.new_zeros(padding)
    sigma = 8 * torch.rand(len(start) + padding, generator=g, dtype=dtype) - 1
    rgb = torch.rand(len(sigma), 5, generator=g, dtype=dtype)
    return Samples(offsets, torch.cat([start, spare]), torch.cat([start + 0.05, spare])), sigma, rgb


@pytest.mark.parametrize("backend", BACKENDS)
def test_compositing_is_that_of_nerfaccs_batched_functions(backend: str) -> None:
    """Weights, colour, alpha and depth with their gradients. Nothing stops early: nerfacc has no such rule."""
    dtype = torch.float32 if backend == "native" else torch.float64
    samples, sigma, rgb = packed_samples(torch.float64)
    index, there = grid_of(torch.stack([samples.offsets[:-1], samples.offsets.diff()], 1), len(sigma))
    s, c = sigma.clone().requires_grad_(), rgb.clone().requires_grad_()
    start, end, density = (
        torch.where(there, x[index], 0) for x in (samples.t_start, samples.t_end, s.clamp(min=0))
    )  # fmt: skip
    weights, _, _ = nerfacc.render_weight_from_density(start, end, density)
    theirs = [
        nerfacc.accumulate_along_rays(weights, c[index]),
        nerfacc.accumulate_along_rays(weights),
        nerfacc.accumulate_along_rays(weights, (0.5 * (start + end))[..., None]),
        unpadded(weights, index, there, s),
    ]
    mine = [t.to(dtype).requires_grad_() for t in (sigma, rgb)]
    cast = Samples(samples.offsets, samples.t_start.to(dtype), samples.t_end.to(dtype))
    ours = composite(*mine, cast, stop=0.0, backend=backend)
    pictures = [ours.rgb, ours.alpha, ours.depth, ours.weights]
    g = torch.Generator().manual_seed(3)
    pulls = [torch.randn(t.shape, generator=g, dtype=torch.float64) for t in theirs]
    their_grads = torch.autograd.grad(theirs, (s, c), pulls)
    our_grads = torch.autograd.grad(pictures, mine, [p.to(dtype) for p in pulls])
    tight = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    for a, b in zip((*pictures, *our_grads), (*theirs, *their_grads), strict=True):
        torch.testing.assert_close(a.double(), b, **tight)  # type: ignore[arg-type]


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("stop", [0.0, 0.05])
def test_compositing_by_the_adapter_is_ours(stop: float, padding: int) -> None:
    samples, sigma, rgb = packed_samples(torch.float64, padding)
    rgb[samples.offsets[3] - 1] = 1e9  # of a sample that nothing reaches when rays stop
    found = []
    for adapter in (True, False):
        leaves = [sigma.clone().requires_grad_(), rgb.clone().requires_grad_()]
        if adapter:
            out = march_nerfacc.composite(*leaves, samples, stop=stop, package=OnCpu())
        else:
            out = composite(*leaves, samples, stop=stop, backend="torch")
        values = [out.rgb, out.alpha, out.depth, out.distortion, out.weights]
        g = torch.Generator().manual_seed(4)
        grads = torch.autograd.grad(sum((torch.randn(v.shape, generator=g) * v).sum() for v in values), leaves)
        found.append([*values, *grads])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-11)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device() -> None:
    origins, directions, occupied, jitter = (t.cuda() for t in rays(4000))
    found, ours = (
        march(origins, directions, occupied, BOX, step=0.02, jitter=jitter, backend=name)
        for name in ("nerfacc", "native")
    )
    same(found, ours, slack=40)
    g = torch.Generator().manual_seed(6)
    sigma = (8 * torch.rand(len(ours.t_start), generator=g) - 1).cuda()
    rgb = torch.rand(len(sigma), 4, generator=g).cuda()
    results = []
    for name in ("nerfacc", "native"):
        leaves = [sigma.clone().requires_grad_(), rgb.clone().requires_grad_()]
        out = composite(*leaves, ours, backend=name)
        values = [out.rgb, out.alpha, out.depth, out.distortion, out.weights]
        results.append([*values, *torch.autograd.grad(sum(v.square().sum() for v in values), leaves)])
    for theirs, mine in zip(*results, strict=True):
        assert (theirs - mine).norm() < 1e-3 * mine.norm()
