# SPDX-License-Identifier: Apache-2.0
"""What a cloud of Gaussians stops, on a grid: sum_i -log(1 - o_i) exp(-d_i^2 / 2), with d_i in standard deviations.

The grid is cut into bricks of BRICK^3 cells, and every Gaussian is paired with the bricks that it reaches, so the work
grows with the Gaussians and with the cells each of them touches. In a brick d^2 is a quadratic of the cell's place: ten
coefficients of a pair times ten monomials of a cell give all distances by one matrix product, and another one adds up
what the pairs of a brick stop and which colour they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.errors import Diverged
from dreamlab.core.rotation import matrix
from dreamlab.core.types import LevelSet

LEVEL = 0.5  # the surface is where the optical density of the cloud reaches this; 1 - exp(-1/2) of light is stopped
REACH = 3.0  # standard deviations beyond which a Gaussian adds nothing
NARROW = 0.6  # cells, the least standard deviation: a thinner Gaussian would fall between the cells
FAINT = 1 / 255  # an opacity below this is not seen in any picture
BRICK = 4  # cells per side
PAIRS = 1 << 20  # of a Gaussian and a brick, kept at once
BLOCK = 1 << 12  # pairs evaluated at once: their cells fit into a cache


@dataclass(frozen=True)
class Density:
    """Optical density and the colours weighted by it, at X x Y x Z corners of cells."""

    bricks: Tensor  # [B, 4, BRICK^3] density, then red, green and blue times density
    size: tuple[int, int, int]  # X, Y, Z
    low: Tensor  # [3] the first corner
    cell: float

    @property
    def values(self) -> Tensor:
        """[X, Y, Z]"""
        across = _bricks_across(self.size)
        apart = self.bricks[:, 0].reshape(*across, BRICK, BRICK, BRICK)
        whole = apart.permute(0, 3, 1, 4, 2, 5).reshape([n * BRICK for n in across])
        return whole[: self.size[0], : self.size[1], : self.size[2]]

    def colour(self, points: Tensor) -> Tensor:
        """[V, 3] of points [V, 3]: trilinear in the colours and in their weight."""
        bound = torch.tensor(self.size, device=points.device)
        place = ((points - self.low) / self.cell).clamp(min=0).minimum(bound - 1)
        base = place.long().minimum(bound - 2)
        share = place - base
        total = points.new_zeros(len(points), 4)
        for corner in torch.cartesian_prod(*[torch.arange(2, device=points.device)] * 3):
            at = base + corner
            brick = _flat(at // BRICK, _bricks_across(self.size))
            found = self.bricks[brick, :, _flat(at % BRICK, (BRICK,) * 3)]
            total = total + torch.where(corner > 0, share, 1 - share).prod(-1, keepdim=True) * found
        return (total[:, 1:] / total[:, :1].clamp(min=1e-9)).clamp(0, 1)


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
    bricks = _splat((means - low) / cell, matrix(quats), widths, weights, (x, y, z))
    return Density(bricks, (x, y, z), low, cell)


def _splat(places: Tensor, turns: Tensor, widths: Tensor, weights: Tensor, size: tuple[int, int, int]) -> Tensor:
    """[B, 4, BRICK^3] sums of `weights` [N, 4] times exp(-d^2 / 2), for Gaussians at `places` [N, 3] in cells."""
    across = _bricks_across(size)
    out = places.new_zeros(across[0] * across[1] * across[2], weights.shape[1], BRICK**3)
    line = torch.arange(BRICK, device=places.device) - (BRICK - 1) / 2
    offsets = torch.cartesian_prod(line, line, line)
    x, y, z = offsets.unbind(-1)
    monomials = torch.stack([x * x, y * y, z * z, x * y, x * z, y * z, x, y, z, torch.ones_like(x)])  # [10, cells]
    cut = float(torch.tensor(-0.5 * REACH**2).exp())
    inverse = turns.transpose(1, 2) / widths[:, :, None]  # from cells to standard deviations
    reach = REACH * (turns * widths[:, None]).square().sum(-1).sqrt()  # [N, 3] of the box around each
    # Neighbours in space one after another: what is evaluated together then lies in few bricks.
    order = _flat((places / BRICK).long().clamp(min=0).minimum(torch.tensor(across, device=places.device) - 1), across)
    order = order.argsort()
    for owner, brick in _pairs(places[order], inverse[order], reach[order], size):
        owner = order[owner]
        terms = _coefficients(places[owner], inverse[owner], brick, across)
        for begin in range(0, len(brick), BLOCK):
            some = slice(begin, begin + BLOCK)
            block = torch.threshold_((terms[some] @ monomials).exp_(), cut, 0.0)
            found, counts = torch.unique_consecutive(brick[some], return_counts=True)
            parts = zip(weights[owner[some]].split(counts.tolist()), block.split(counts.tolist()), strict=True)
            for where, (weight, value) in zip(found.tolist(), parts, strict=True):
                out[where].addmm_(weight.T, value)
    return out


def _pairs(
    places: Tensor, inverse: Tensor, reach: Tensor, size: tuple[int, int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Gaussians [P] and bricks [P] that have cells in common, or nearly so, sorted by brick; about PAIRS at a time."""
    across, last = _bricks_across(size), torch.tensor(size, device=places.device) - 1
    first = (places - reach).ceil().clamp(min=0).long() // BRICK
    count = (places + reach).floor().long().minimum(last).div(BRICK, rounding_mode="floor") - first + 1
    many = count.clamp(min=0).prod(-1)
    total = many.cumsum(0)
    half = (BRICK - 1) / 2
    slack = REACH + half * inverse.abs().sum(-1)  # how far along its axes a Gaussian reaches cells of a brick
    begin, parts = 0, int(total[-1]) // PAIRS + 1
    targets = int(total[-1]) * torch.arange(1, parts + 1, device=total.device) // parts
    for end in (torch.searchsorted(total, targets) + 1).clamp(max=len(total)).tolist():
        some = slice(begin, end)
        owner = torch.repeat_interleave(torch.arange(begin, end, device=places.device), many[some])
        before = (total - many)[some]
        step = torch.arange(len(owner), device=places.device) - (before - before[:1])[owner - begin]
        _, ny, nz = count[owner].unbind(-1)
        brick = first[owner] + torch.stack([step // (ny * nz), step // nz % ny, step % nz], -1)
        away = brick * BRICK + half - places[owner]
        touches = ((inverse[owner] @ away[..., None])[..., 0].abs() <= slack[owner]).all(-1)
        flat, order = _flat(brick[touches], across).sort()
        yield owner[touches][order], flat
        begin = end


def _coefficients(places: Tensor, inverse: Tensor, brick: Tensor, across: tuple[int, ...]) -> Tensor:
    """[P, 10] of -d^2 / 2 as a polynomial of a cell's offset from the middle of its brick."""
    x, y, z = brick // (across[1] * across[2]), brick // across[2] % across[1], brick % across[2]
    away = torch.stack([x, y, z], -1) * BRICK + (BRICK - 1) / 2 - places
    middle = (inverse @ away[..., None])[..., 0]
    slope = (middle[:, None] @ inverse)[:, 0]
    a, b, c = inverse.unbind(-1)
    squares = torch.stack([(p * q).sum(-1) for p, q in ((a, a), (b, b), (c, c), (a, b), (a, c), (b, c))], -1)
    twice = squares.new_tensor([1, 1, 1, 2, 2, 2])
    return -0.5 * torch.cat([twice * squares, 2 * slope, middle.square().sum(-1, keepdim=True)], -1)


def _bricks_across(size: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (-(-n // BRICK) for n in size)
    return x, y, z


def _flat(index: Tensor, size: tuple[int, ...]) -> Tensor:
    """[..., 3] -> [...]: rows of a volume of `size`, z fastest."""
    return (index[..., 0] * size[1] + index[..., 1]) * size[2] + index[..., 2]
