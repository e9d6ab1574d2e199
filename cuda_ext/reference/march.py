# SPDX-License-Identifier: Apache-2.0
"""Marching rays through an occupancy grid, and compositing what the samples hold: the torch twins.

A ray is o + t d with |d| = 1, so t is in metres. Inside the box it is cut into intervals [t_k, t_k + dt_k] with
t_0 = start + jitter dt(start), t_{k+1} = t_k + dt(t_k) and dt(t) = max(step, cone t); with cone = 0 the rounded form
is t_k = start + (k + jitter) step. Interval k exists while its middle lies before the ray's end, and is kept when the
cell around its middle is occupied. Kept intervals are packed ray after ray: those of ray r are offsets[r]:offsets[r+1].

Compositing is the quadrature of Max 1995 as in NeRF: tau_i = max(sigma_i, 0) (t_end - t_start), T_i = exp(-sum of the
earlier tau), w_i = T_i (1 - exp(-tau_i)). An interval with T_i < stop gets weight 0 and no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext import room

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]  # lowest corner, highest corner


@dataclass(frozen=True)
class Samples:
    """Intervals of R rays, packed: those of ray r are offsets[r]:offsets[r + 1]."""

    offsets: Tensor  # [R + 1] int64, ascending
    t_start: Tensor  # [M]
    t_end: Tensor  # [M]
    ray: Tensor | None = None  # [M] int64, see ray_index

    def ray_index(self) -> Tensor:
        """[M] int64: the ray of each interval (of a padding interval: the last ray)."""
        if self.ray is not None:
            return self.ray
        index = torch.arange(len(self.t_start), device=self.offsets.device)
        return torch.searchsorted(self.offsets, index, right=True).sub_(1).clamp_(max=max(len(self.offsets) - 2, 0))

    def points(self, origins: Tensor, directions: Tensor) -> Tensor:
        """[M, 3]: the intervals' middles in the world."""
        ray = self.ray_index()
        return origins[ray] + directions[ray] * (0.5 * (self.t_start + self.t_end))[:, None]


@dataclass(frozen=True)
class Composited:
    """Sums along each ray, premultiplied: nothing is divided by alpha, nothing is put behind."""

    rgb: Tensor  # [R, C]: sum of w c
    alpha: Tensor  # [R, 1]: sum of w
    depth: Tensor  # [R, 1]: sum of w t, t the middle of the interval
    distortion: Tensor  # [R, 1]: mip-NeRF 360 (arXiv:2111.12077) eq. 15, with s = t in metres
    weights: Tensor  # [M]


def steps_bound(bounds: Bounds, step: float) -> int:
    """Most intervals a unit-length ray can have inside the box."""
    return math.ceil(math.dist(*bounds) / step) + 2


def ray_box(origins: Tensor, directions: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave a box: t [R], t [R]; a ray that misses has enter > leave. Not clipped at t = 0."""
    low, high = origins.new_tensor(bounds)
    parallel = directions == 0
    inside = (origins >= low) & (origins <= high)
    inverse = 1 / directions
    first, second = (low - origins) * inverse, (high - origins) * inverse
    infinity = origins.new_tensor(math.inf)
    near = torch.where(parallel, torch.where(inside, -infinity, infinity), torch.minimum(first, second))
    far = torch.where(parallel, torch.where(inside, infinity, -infinity), torch.maximum(first, second))
    return near.amax(1), far.amin(1)


def march(
    origins: Tensor,
    directions: Tensor,
    occupied: Tensor,
    bounds: Bounds,
    *,
    step: float,
    near: float = 0.0,
    far: float = math.inf,
    cone: float = 0.0,
    jitter: Tensor | None = None,
    capacity: int | None = None,
) -> Samples:
    """[R, 3], [R, 3], bool [X, Y, Z] -> Samples; the loop runs over intervals, every ray at once."""
    start, end, t = clipped(origins, directions, bounds, step, near, far, cone, jitter)
    shift = torch.zeros_like(start) if jitter is None else jitter
    least, slope = start.new_tensor(step), start.new_tensor(cone)
    starts, ends, keep = [], [], []
    for k in range(steps_bound(bounds, step)):
        if cone == 0:
            t = _fused(k + shift, least, start)
        width = torch.maximum(t * slope, least)
        middle = t + 0.5 * width
        points = _fused(directions, middle[:, None], origins)
        keep.append((start < end) & (middle < end) & _occupied_at(points, occupied, bounds))
        starts.append(t)
        ends.append(t + width)
        t = t + width
    mask = torch.stack(keep, 1)  # [R, K]
    offsets = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    return padded(offsets, torch.stack(starts, 1)[mask], torch.stack(ends, 1)[mask], capacity)


def clipped(
    origins: Tensor,
    directions: Tensor,
    bounds: Bounds,
    step: float,
    near: float,
    far: float,
    cone: float,
    jitter: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of each ray that is marched, from start [R] to end [R] (none of it where start >= end), and where its
    first interval begins [R]."""
    enter, leave = ray_box(origins, directions, bounds)
    start, end = enter.clamp(min=near), leave.clamp(max=far)
    shift = torch.zeros_like(start) if jitter is None else jitter
    valid = (start < end) & start.isfinite() & end.isfinite() & shift.isfinite()
    start, end = torch.where(valid, start, 0), torch.where(valid, end, 0)
    return start, end, _fused(shift, torch.maximum(start * start.new_tensor(cone), start.new_tensor(step)), start)


def padded(offsets: Tensor, t_start: Tensor, t_end: Tensor, capacity: int | None) -> Samples:
    """The intervals of all rays, with a capacity exactly that many."""
    if capacity is None:
        return Samples(offsets, t_start, t_end)
    room.note("march", offsets[-1], capacity)
    spare = t_start.new_zeros(max(capacity - len(t_start), 0))
    t_start, t_end = torch.cat([t_start[:capacity], spare]), torch.cat([t_end[:capacity], spare])
    return Samples(offsets.clamp(max=capacity), t_start, t_end)


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c with one rounding, like a fused multiply-add: it decides which interval asks which cell."""
    return (a.double() * b.double() + c.double()).to(c.dtype)


def _occupied_at(points: Tensor, occupied: Tensor, bounds: Bounds) -> Tensor:
    low, high = points.new_tensor(bounds)
    size = torch.tensor(occupied.shape, device=points.device)
    scaled = (points - low) * (size / (high - low))
    cell = torch.minimum(scaled.nan_to_num(0.0).clamp(min=0).floor(), (size - 1).to(points.dtype)).long()
    return occupied[cell[:, 0], cell[:, 1], cell[:, 2]]


def composite(sigma: Tensor, rgb: Tensor, samples: Samples, *, stop: float = 1e-4) -> Composited:
    """[M], [M, C] -> Composited; the packed intervals are padded to [R, S] and summed along S."""
    offsets = samples.offsets
    counts = offsets[1:] - offsets[:-1]
    width = int(counts.max()) if len(counts) else 0
    column = torch.arange(width, device=sigma.device)
    valid = column < counts[:, None]  # [R, S]
    index = torch.where(valid, offsets[:-1, None] + column, 0)
    start, end = samples.t_start[index], samples.t_end[index]
    tau = torch.where(valid, sigma[index].clamp(min=0) * (end - start), 0)
    before = torch.exp(-torch.nn.functional.pad(tau.cumsum(1)[:, :-1], (1, 0)))
    alive = valid & (before >= stop)
    weights = torch.where(alive, -torch.expm1(-tau) * before, 0)
    middle = torch.where(valid, 0.5 * (start + end), 0)
    distortion = _distortion(weights, middle, torch.where(valid, end - start, 0))
    values = torch.where(alive[..., None], rgb[index], 0)
    packed = torch.zeros_like(sigma).index_put((index[valid],), weights[valid])
    return Composited(
        (weights[..., None] * values).sum(1),
        weights.sum(1, keepdim=True),
        (weights * middle).sum(1, keepdim=True),
        distortion[:, None],
        packed,
    )


def _distortion(weights: Tensor, middle: Tensor, width: Tensor) -> Tensor:
    """Sum over i, j of w_i w_j |m_i - m_j| + 1/3 sum of w_i^2 dt_i, with prefix sums since m ascends: [R, S] -> [R]."""
    mass = weights.cumsum(1) - weights
    moment = (weights * middle).cumsum(1) - weights * middle
    between = 2 * (weights * (middle * mass - moment)).sum(1)
    return between + (weights.square() * width).sum(1) / 3


def cell_points(shape: tuple[int, int, int], bounds: Bounds, jitter: Tensor | None = None) -> Tensor:
    """[X * Y * Z, 3]: one point per cell; its centre, or centre + (jitter - 1/2) cells with jitter [X * Y * Z, 3]."""
    device = None if jitter is None else jitter.device
    axes = torch.meshgrid([torch.arange(n, dtype=torch.float32, device=device) for n in shape], indexing="ij")
    cells = torch.stack(axes, -1).reshape(-1, 3)
    low, high = torch.tensor(bounds, device=device)
    inside = cells + (0.5 if jitter is None else jitter)
    return low + inside * ((high - low) / torch.tensor(shape, device=device))


def refresh_density(density: Tensor, fresh: Tensor, decay: float = 0.95) -> Tensor:
    """[X, Y, Z] running maximum of the density per cell (instant-ngp, arXiv:2201.05989, appendix C)."""
    return torch.maximum(density * decay, fresh.reshape(density.shape))


def occupied_cells(density: Tensor, threshold: float) -> Tensor:
    """[X, Y, Z] bool: above the threshold, or above the mean while the whole field is thinner than the threshold."""
    return density > density.mean().clamp(max=threshold)
