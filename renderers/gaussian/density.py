# SPDX-License-Identifier: Apache-2.0
"""What a cloud of Gaussians stops, on a grid: sum_i -log(1 - o_i) exp(-d_i^2 / 2), with d_i in standard deviations; by
the op `density`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext.density import density
from cuda_ext.reference.density import REACH
from dreamlab.core.errors import Diverged
from dreamlab.core.rotation import matrix
from dreamlab.core.types import LevelSet

LEVEL = 0.5  # the surface is where the optical density of the cloud reaches this; 1 - exp(-1/2) of light is stopped
NARROW = 0.6  # cells, the least standard deviation: a thinner Gaussian would fall between the cells
FAINT = 1 / 255  # an opacity below this is not seen in any picture


@dataclass(frozen=True)
class Density:
    """Optical density and the colours weighted by it, at X x Y x Z corners of cells."""

    grid: Tensor  # [4, X, Y, Z] density, then red, green and blue times density
    low: Tensor  # [3] the first corner
    cell: float

    @property
    def values(self) -> Tensor:
        """[X, Y, Z]"""
        return self.grid[0]

    def colour(self, points: Tensor) -> Tensor:
        """[V, 3] of points [V, 3]: trilinear in the colours and in their weight."""
        bound = torch.tensor(self.grid.shape[1:], device=points.device)
        place = ((points - self.low) / self.cell).clamp(min=0).minimum(bound - 1)
        base = place.long().minimum(bound - 2)
        share = place - base
        total, flat = points.new_zeros(4, len(points)), self.grid.flatten(1)
        for corner in torch.cartesian_prod(*[torch.arange(2, device=points.device)] * 3):
            x, y, z = (base + corner).unbind(-1)
            there = (x * bound[1] + y) * bound[2] + z
            total += torch.where(corner > 0, share, 1 - share).prod(-1) * flat[:, there]
        return (total[1:] / total[:1].clamp(min=1e-9)).clamp(0, 1).T.contiguous()


def level_set(found: Density, worth: tuple[float, ...] = ()) -> LevelSet:
    """As a surface's level; those `worth` trying are tried."""
    x, y, z = found.low.tolist()
    return LevelSet(found.values, (x, y, z), found.cell, found.colour, LEVEL, worth)


def density_of(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colours: Tensor,  # [N, 3]
    resolution: int,
) -> Density:
    """On a grid of at most `resolution` cells a side around all that can be seen."""
    keep = (opacities > FAINT) & torch.isfinite(means).all(-1) & (means.abs() < 2).all(-1)
    if not bool(keep.any()):
        raise Diverged("the scene is empty: no Gaussian is visible; try more steps, or a lower opacity regulariser")
    means, quats, scales, opacities = means[keep], quats[keep], scales[keep], opacities[keep]
    reach = REACH * scales.amax(-1, keepdim=True)
    low, high = (means - reach).amin(0).clamp(min=-1.6), (means + reach).amax(0).clamp(max=1.6)
    cell = float((high - low).max()) / resolution
    x, y, z = (int(n) + 1 for n in ((high - low) / cell).ceil())
    widths = (scales / cell).clamp(min=NARROW)
    mass = -torch.log1p(-opacities.clamp(max=0.99))[:, None]
    weights = torch.cat([mass, mass * colours[keep]], 1)
    return Density(density((means - low) / cell, matrix(quats), widths, weights, (x, y, z)), low, cell)
