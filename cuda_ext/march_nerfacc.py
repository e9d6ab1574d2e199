# SPDX-License-Identifier: Apache-2.0
"""`march` and `composite` on nerfacc (MIT, CUDA only), for those who ask for it; written to its 0.5 API.

Its traversal steps as ours does from a near plane per ray: handed our first interval, our box and our clip range, it
finds the same intervals, but for the rounding of `t += step` and of cells' borders. Its transmittance is ours; what it
does not know is done here: the stopping, padding, the distortion.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from cuda_ext.reference import march as twin
from cuda_ext.reference.march import Bounds, Composited, Samples


class Segments(Protocol):
    """Of `nerfacc.RayIntervals` and `nerfacc.RaySamples`, what is read."""

    vals: Tensor
    packed_info: Tensor  # [R, 2] first and count of each ray
    ray_indices: Tensor


class Intervals(Segments, Protocol):
    is_left: Tensor
    is_right: Tensor


class Nerfacc(Protocol):
    """What is called of the package."""

    def traverse_grids(
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        binaries: Tensor,
        aabbs: Tensor,
        near_planes: Tensor,
        far_planes: Tensor,
        step_size: float,
        cone_angle: float,
        *,
        t_sorted: Tensor,
        t_indices: Tensor,
        hits: Tensor,
    ) -> tuple[Intervals, Segments, Tensor]: ...

    def render_weight_from_density(
        self, t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]: ...

    def exclusive_sum(self, inputs: Tensor, packed_info: Tensor) -> Tensor: ...

    def accumulate_along_rays(
        self, weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int
    ) -> Tensor: ...


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
    package: Nerfacc | None = None,
) -> Samples:
    """See `cuda_ext.march.march`: same arguments, already checked; `package` is nerfacc when missing."""
    nerfacc = _nerfacc() if package is None else package
    start, end, first = twin.clipped(origins, directions, bounds, step, near, far, cone, jitter)
    if not len(origins):
        return twin.padded(end.new_zeros(1, dtype=torch.int64), end, end, capacity)
    along = torch.arange(2, device=origins.device).expand(len(origins), 2)
    edges, samples, _ = nerfacc.traverse_grids(
        origins.contiguous(), directions.contiguous(), occupied[None].contiguous(),
        origins.new_tensor([[*bounds[0], *bounds[1]]]), first, end, step, cone,
        t_sorted=torch.stack([start, end], 1), t_indices=along.contiguous(), hits=(start < end)[:, None],
    )  # fmt: skip
    counts = samples.packed_info[:, 1].long()
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return twin.padded(offsets, edges.vals[edges.is_left], edges.vals[edges.is_right], capacity)


def composite(
    sigma: Tensor, rgb: Tensor, samples: Samples, *, stop: float = 1e-4, package: Nerfacc | None = None
) -> Composited:
    """See `cuda_ext.march.composite`."""
    nerfacc = _nerfacc() if package is None else package
    offsets, start, end, ray = samples.offsets, samples.t_start, samples.t_end, samples.ray_index()
    rays, packed = len(offsets) - 1, torch.stack([offsets[:-1], offsets.diff()], 1)
    inside = torch.arange(len(sigma), device=sigma.device) < offsets[-1]  # what follows is padding, of no ray
    density = torch.where(inside, sigma.clamp(min=0), 0)
    weights, before, _ = nerfacc.render_weight_from_density(start, end, density, packed_info=packed)
    alive = inside & (before.detach() >= stop)
    weights = torch.where(alive, weights, 0)

    def sums(values: Tensor | None) -> Tensor:
        return nerfacc.accumulate_along_rays(weights, values, ray_indices=ray, n_rays=rays)

    def ahead(values: Tensor) -> Tensor:
        return torch.where(inside, nerfacc.exclusive_sum(torch.where(inside, values, 0), packed), 0)

    middle = 0.5 * (start + end)
    # From the ray's first sample: the distortion is a difference of sums that would cancel far from the camera.
    base = torch.cat([start, start.new_zeros(1)])[offsets[:-1].clamp(max=len(start))]
    local = middle - base[ray] if rays else middle
    between = 2 * (local * ahead(weights) - ahead(weights * local)) + weights * (end - start) / 3
    colour = sums(torch.where(alive[:, None], rgb, 0))
    return Composited(colour, sums(None), sums(middle[:, None]), sums(between[:, None]), weights)


def _nerfacc() -> Nerfacc:
    import nerfacc

    return nerfacc
