# SPDX-License-Identifier: Apache-2.0
"""`march` and `composite`: volume rendering with samples only where an occupancy grid says there is something."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.reference import march as reference
from cuda_ext.reference.march import (
    Bounds,
    Composited,
    Samples,
    cell_points,
    occupied_cells,
    ray_box,
    refresh_density,
    steps_bound,
)

__all__ = [
    "Bounds",
    "Composited",
    "Samples",
    "cell_points",
    "composite",
    "march",
    "occupied_cells",
    "ray_box",
    "refresh_density",
]
MAX_STEPS = 1 << 16


def march(
    origins: Tensor,  # [R, 3]
    directions: Tensor,  # [R, 3]
    occupied: Tensor,  # [X, Y, Z] bool
    bounds: Bounds,
    *,
    step: float,
    near: float = 0.0,
    far: float = math.inf,
    cone: float = 0.0,
    jitter: Tensor | None = None,  # [R]
    capacity: int | None = None,
    backend: str = "auto",
) -> Samples:
    """Cut rays into intervals and keep those whose middle lies in an occupied cell.

    origins, directions  in the world (metres); directions of length 1
    occupied             cell (i, j, k) covers that part of the box along x, y, z
    bounds               the box: lowest corner, highest corner
    step                 interval length in metres; with `cone` the smallest one
    near, far            rays are also clipped to this range of t
    cone                 interval length grows as cone * t
    jitter               in [0, 1), shifts the ray's first interval by that part of it; None is 0
    capacity             None: as many intervals as there are, which waits for the GPU once. A number: always that many;
                         the tail is padding that belongs to no ray, and what exceeds it is dropped from the last rays
    backend              auto, native, torch or nerfacc

    Nothing is differentiable. Rays that miss, or hold a number that is not finite, get no interval.
    """
    check_shape("march", "origins", origins, ("R", 3))
    check_shape("march", "directions", directions, (origins.shape[0], 3))
    check_shape("march", "occupied", occupied, ("X", "Y", "Z"))
    check_alike("march", origins=origins, directions=directions, jitter=jitter)
    require(occupied.dtype == torch.bool, f"march: occupied must be bool, got {occupied.dtype}")
    require(occupied.device == origins.device, f"march: occupied is on {occupied.device}, origins on {origins.device}")
    require(min(occupied.shape) >= 1, f"march: occupied must have at least one cell per axis, got {occupied.shape}")
    require(all(a < b for a, b in zip(*bounds, strict=True)), f"march: bounds must be (lowest, highest), got {bounds}")
    require(step > 0 and cone >= 0 and near >= 0, f"march: need step > 0, cone >= 0, near >= 0: {step}, {cone}, {near}")
    steps = steps_bound(bounds, step)
    require(steps <= MAX_STEPS, f"march: step {step} cuts the box into {steps} intervals, at most {MAX_STEPS}")
    if jitter is not None:
        check_shape("march", "jitter", jitter, (origins.shape[0],))
    backends.choose("march", backend, origins)
    with torch.no_grad():
        return reference.march(
            origins, directions, occupied, bounds,
            step=step, near=near, far=far, cone=cone, jitter=jitter, capacity=capacity,
        )  # fmt: skip


def composite(
    sigma: Tensor,  # [M]
    rgb: Tensor,  # [M, C]
    samples: Samples,
    *,
    stop: float = 1e-4,
    backend: str = "auto",
) -> Composited:
    """Volume-render packed samples: colour, alpha, expected depth, distortion and the weights themselves.

    sigma    density per metre; negative counts as 0 and receives no gradient
    rgb      C channels: colours, normals, features
    samples  from `march`
    stop     intervals that are reached by less than this part of the light are skipped
    backend  auto, native, torch or nerfacc

    Differentiable in sigma and rgb from every output, once. Not differentiable: the interval ends, the stopping.
    All outputs are premultiplied sums: put a background behind with `rgb + (1 - alpha) * background`, and divide the
    depth by alpha (clamped) for a mean depth. A ray without samples gives zeros.
    """
    check_shape("composite", "sigma", sigma, (samples.t_start.shape[0],))
    check_shape("composite", "rgb", rgb, (sigma.shape[0], "C"))
    check_shape("composite", "samples.t_end", samples.t_end, tuple(samples.t_start.shape))
    check_alike("composite", sigma=sigma, rgb=rgb, t_start=samples.t_start, t_end=samples.t_end)
    backends.choose("march", backend, sigma)
    return reference.composite(sigma, rgb, samples, stop=stop)
