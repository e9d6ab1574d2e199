# SPDX-License-Identifier: Apache-2.0
"""What every volume scene shares: rays of a batch of cameras, the occupancy grid that skips empty space, compositing,
and the penalties that follow from the weights along a ray.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext.march import (
    Bounds,
    Composited,
    Samples,
    cell_points,
    composite,
    march,
    occupied_cells,
)
from dreamlab.core.cameras import Cameras
from dreamlab.core.safemath import safe_divide
from dreamlab.core.streams import by_view
from dreamlab.core.types import Frames, Training

ALPHA_FLOOR = 0.01  # an interval that would take less light than this is not worth a sample
HIDDEN, FAINT = 1e-3, 1e-4
SHIFTS = (0.8191725, 0.6710436, 0.5497005)  # R3 sequence: offsets of successive refreshes fill a cell evenly


@dataclass(frozen=True)
class Cast:
    """The samples of all rays of B views, R = B * H * W."""

    samples: Samples
    points: Tensor  # [M, 3]
    directions: Tensor  # [M, 3] of the ray each sample lies on
    view: Tensor  # [M] int64
    rays: Tensor  # [R, 3] directions
    backend: str = "auto"  # that marched, and composites

    def only(self, sigma: Tensor, faint: float = FAINT) -> Cast:
        """Those samples that can be seen at all, by densities [M] evaluated beforehand.

        Left out: what lies behind matter that hides it (transmittance below HIDDEN), and what takes no more light than
        `faint`. The number that remains is read by the host.
        """
        s = self.samples
        none = torch.zeros_like(sigma)[:, None]
        seen = composite(sigma, none, s, stop=HIDDEN, backend=self.backend).weights > faint
        before, rows = torch.nn.functional.pad(seen.cumsum(0), (1, 0)), seen.nonzero()[:, 0]
        samples = Samples(before[s.offsets], s.t_start[rows], s.t_end[rows], s.ray_index()[rows])
        return Cast(samples, self.points[rows], self.directions[rows], self.view[rows], self.rays, self.backend)

    def before(self, core: Tensor, bounds: Bounds) -> Cast:
        """Those samples that do not lie behind a dense `core` [X, Y, Z], a cheap lower bound of the density."""
        low, high = self.points.new_tensor(bounds)
        size = torch.tensor(core.shape, device=core.device)
        cell = ((self.points - low) / (high - low) * size).long().clamp(min=0).minimum(size - 1)
        # A trace of density everywhere: only what is behind the core has a weight of exactly 0.
        return self.only(core[cell[:, 0], cell[:, 1], cell[:, 2]].clamp(min=1e-3), faint=0.0)


def box(radius: float) -> Bounds:
    return ((-radius,) * 3, (radius,) * 3)


def cast(
    cameras: Cameras,
    size: int,
    occupied: Tensor,  # [X, Y, Z] bool
    bounds: Bounds,
    step: float,
    training: Training | None,
    per_ray: int | None = None,
    backend: str = "auto",
) -> Cast:
    """Samples along all rays; while training every ray starts at a random part of a step.

    `per_ray`: exactly that many samples per ray are kept on average, so that the host need not wait for a GPU's count.
    """
    eyes, directions = cameras.rays(size, size)
    origins = eyes[:, None, None].expand_as(directions).reshape(-1, 3)
    rays = directions.reshape(-1, 3)
    jitter = None
    if training is not None:
        jitter = by_view(torch.rand, len(rays), stream=training.stream).to(rays)
    capacity = None if per_ray is None else per_ray * len(rays)
    samples = march(
        origins, rays, occupied, bounds, step=step, jitter=jitter, capacity=capacity, backend=backend
    )  # fmt: skip
    index = samples.ray_index()
    middle = 0.5 * (samples.t_start + samples.t_end)
    along = rays[index]
    points, view = origins[index] + along * middle[:, None], index // (size * size)
    return Cast(samples, points, along, view, rays, backend)


@dataclass(frozen=True)
class Layers:
    """Composited values of B views, premultiplied, nothing behind them."""

    values: Tensor  # [B, H, W, C]
    alpha: Tensor  # [B, H, W, 1]
    depth: Tensor  # [B, H, W, 1] expected camera z, 0 where nothing is
    sums: Composited


def compose(sigma: Tensor, values: Tensor, found: Cast, cameras: Cameras, size: int) -> Layers:
    """Densities [M] per metre and values [M, C] to pictures."""
    sums = composite(sigma, values, found.samples, backend=found.backend)
    shape = (len(cameras), size, size, -1)
    alpha = sums.alpha.reshape(shape)
    ahead = -cameras.camera_to_world[:, :3, 2]  # the cosine turns a way along the ray into camera z
    cosine = torch.einsum("bhwi,bi->bhw", found.rays.reshape(shape), ahead)[..., None]
    depth = safe_divide(sums.depth.reshape(shape) * cosine, alpha)
    return Layers(sums.rgb.reshape(shape), alpha, depth, sums)


# ---- occupancy ------------------------------------------------------------------------------------------------------
def refresh_points(resolution: int, bounds: Bounds, turn: int, device: torch.device) -> Tensor:
    """[R^3, 3]: one point per cell; turn 0 takes the centres, later ones a point that moves through the cell."""
    shift = torch.tensor([(0.5 + turn * s) % 1.0 for s in SHIFTS])
    cells = cell_points((resolution,) * 3, bounds, shift.expand(resolution**3, 3))
    return cells.to(device)


def occupied(density: Tensor, step: float) -> Tensor:
    """[X, Y, Z] bool: cells worth samples."""
    return occupied_cells(density, -math.log1p(-ALPHA_FLOOR) / step)


def core(density: Tensor) -> Tensor:
    """The least density of a cell and its 26 neighbours."""
    return -torch.nn.functional.max_pool3d(-density[None, None], 3, 1, 1)[0, 0]


# ---- penalties ------------------------------------------------------------------------------------------------------
def traces(found: Cast, sums: Composited) -> dict[str, Tensor]:
    """What the penalties below read from `Frames.extra`."""
    samples = found.samples
    return {
        "weights": sums.weights,
        "t": 0.5 * (samples.t_start + samples.t_end),
        "ray": samples.ray_index(),
        "ray_alpha": sums.alpha[:, 0],
        "ray_t": sums.depth[:, 0],
        "distortion": sums.distortion,
        "along": found.directions,
    }


def z_variance(frames: Frames) -> Tensor:
    """HiFA (arXiv:2305.18766): spread of the weights along a ray, over rays with alpha > 1/2."""
    e = frames.extra
    alpha = e["ray_alpha"]
    mean = safe_divide(e["ray_t"], alpha)
    spread = torch.zeros_like(alpha).index_add(0, e["ray"], e["weights"] * (e["t"] - mean[e["ray"]]).square())
    solid = (alpha > 0.5).to(alpha)
    return frames.total((solid * safe_divide(spread, alpha)).sum()) / frames.total(solid.sum()).clamp(min=1)


def distortion(frames: Frames) -> Tensor:
    """mip-NeRF 360 (arXiv:2111.12077), eq. 15, in metres: weight in one place."""
    return frames.mean(frames.extra["distortion"])


def orient(frames: Frames) -> Tensor:
    """Ref-NeRF (arXiv:2112.03907), eq. 11: visible normals face the camera."""
    e = frames.extra
    away = (e["normals"] * e["along"]).sum(-1).clamp(min=0).square()
    shown = frames.total((e["ray_alpha"] > 0).sum())
    return frames.total((e["weights"].detach() * away).sum()) / shown.clamp(min=1)


def eikonal(frames: Frames) -> Tensor:
    """(|grad sdf| - 1)^2 over the samples."""
    slope = frames.extra["slope"]
    return _over_samples(((slope.square().sum(-1) + 1e-12).sqrt() - 1).square(), frames)


def entropy(frames: Frames) -> Tensor:
    """ProlificDreamer: binary entropy of every sample's weight, in bits: a sample hides all or nothing."""
    w = frames.extra["weights"].clamp(1e-5, 1 - 1e-5)
    return _over_samples(-(w * w.log2() + (1 - w) * (1 - w).log2()), frames)


def _over_samples(values: Tensor, frames: Frames) -> Tensor:
    """The mean; 0 where there are none."""
    return frames.total(values.sum()) / frames.total(values.new_full((), len(values))).clamp(min=1)


PENALTIES: dict[str, Callable[[Frames], Tensor]] = {
    "z_variance": z_variance,
    "distortion": distortion,
    "orient": orient,
    "eikonal": eikonal,
    "entropy": entropy,
}


def penalty(name: str, frames: Frames) -> Tensor:
    """One of `PENALTIES`; says which setting makes what it needs."""
    needs = {"orient": ("normals", "normals: analytic"), "eikonal": ("slope", "density: volsdf or neus")}
    if name in needs and needs[name][0] not in frames.extra:
        raise ValueError(f"regularisers.{name}: the field does not compute it; set scene {needs[name][1]}")
    return PENALTIES[name](frames)
