# SPDX-License-Identifier: Apache-2.0
"""Pictures of several things along the same rays: surfaces, clouds and volumes put together by depth.

A layer is something at one depth per pixel: a surface, which it describes exactly, or a cloud of Gaussians drawn by
itself, which stands at its mean depth. A volume brings its samples. All of them are sorted along each ray and
composited as one volume, a layer being an interval so short that only its opacity counts.

Exact for opaque surfaces. Volumes that overlap add their densities, so alpha is exact; which of the two a pixel shows
is right up to the product of their opacities in one interval, which vanishes with the step, like the quadrature's own
error. A sample whose interval a surface cuts is in front of it, or behind, as a whole. A cloud that stands in a
volume, or cuts a surface, is sorted by its mean depth: that is an approximation with no bound but the cloud's depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from cuda_ext.march import Samples, composite
from dreamlab.core.cameras import Cameras
from dreamlab.core.safemath import safe_divide

THICKNESS = 1e-3  # metres, of a layer's interval
SOLID = 1 - 1e-6  # the most that a layer stops
REACH = 1e4  # metres; no ray is longer


@dataclass(frozen=True)
class Layer:
    """One depth per pixel of B views."""

    values: Tensor  # [B, H, W, C] premultiplied
    alpha: Tensor  # [B, H, W, 1]
    depth: Tensor  # [B, H, W, 1] camera z, 0 where nothing is


@dataclass(frozen=True)
class Fog:
    """Samples along the rays of B views, row by row."""

    samples: Samples  # t in metres of the world
    sigma: Tensor  # [M] per metre
    values: Tensor  # [M, C]


def merge(layers: Sequence[Layer], volumes: Sequence[Fog], cameras: Cameras, size: int) -> Layer:
    """All of them as one, nothing behind it; differentiable in values, opacities and densities, not in depths."""
    rays = cameras.rays(size, size)[1]
    cosine = -torch.einsum("bhwi,bi->bhw", rays, cameras.camera_to_world[:, :3, 2])[..., None]
    parts = [*volumes, *(_sampled(layer, cosine) for layer in layers)]
    count = rays[..., 0].numel()
    middle = torch.cat([0.5 * (part.samples.t_start + part.samples.t_end) for part in parts])
    # Padding lies behind the last offset and belongs to no ray: it must stay there.
    ray = torch.cat([_rays(part.samples, count) for part in parts])
    order = (ray.double() * REACH + middle).argsort()
    starts = torch.cat([part.samples.t_start for part in parts])[order]
    ends = torch.cat([part.samples.t_end for part in parts])[order]
    offsets = torch.stack([part.samples.offsets for part in parts]).sum(0)
    sums = composite(
        torch.cat([part.sigma for part in parts])[order],
        torch.cat([part.values for part in parts])[order],
        Samples(offsets, starts, ends),
    )
    alpha, along = (value.reshape(cosine.shape) for value in (sums.alpha, sums.depth))
    return Layer(sums.rgb.reshape(*cosine.shape[:3], -1), alpha, safe_divide(along * cosine, alpha))


def _sampled(layer: Layer, cosine: Tensor) -> Fog:
    """One sample per pixel, whose opacity is the layer's."""
    t = (_reaching_out(layer.depth.detach()) / cosine).reshape(-1)
    start, end = t - THICKNESS / 2, t + THICKNESS / 2
    alpha = layer.alpha.reshape(-1)
    sigma = -torch.log1p(-alpha.clamp(0, SOLID)) / (end - start)
    straight = layer.values.flatten(0, 2) / alpha.clamp(min=1e-6)[:, None]
    return Fog(Samples(torch.arange(len(t) + 1, device=t.device), start, end), sigma, straight)


def _reaching_out(depth: Tensor) -> Tensor:
    """[B, H, W, 1]: smoothed silhouettes cover pixels in which no triangle has a depth; they take their neighbours'."""
    around = max_pool2d(depth.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    return torch.where(depth > 0, depth, around)


def _rays(samples: Samples, count: int) -> Tensor:
    """[M] the ray of each sample, `count` for padding."""
    index = torch.arange(len(samples.t_start), device=samples.offsets.device)
    return torch.where(index < samples.offsets[-1], samples.ray_index(), count)
