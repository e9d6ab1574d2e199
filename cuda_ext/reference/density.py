# SPDX-License-Identifier: Apache-2.0
"""Torch twin of `density`: at cell c of a grid, sum_i w_i exp(-|d_i|^2 / 2) over the Gaussians with |d_i| < REACH.

d_i = diag(1 / widths_i) turns_i^T (c - place_i) is the way in standard deviations. One that is not finite adds nothing.

The grid is cut into bricks of BRICK^3 cells, and every Gaussian is paired with the bricks that it reaches, so the work
grows with the Gaussians and with the cells each of them touches. In a brick |d|^2 is a quadratic of the cell's place:
ten coefficients of a pair times ten monomials of a cell give all distances by one matrix product, and another one adds
up what the pairs of a brick have.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

REACH = 3.0  # standard deviations beyond which a Gaussian adds nothing
THINNEST = 1e-12  # cells, the width of a Gaussian that adds nothing
BRICK = 4  # cells per side
PAIRS = 1 << 20  # of a Gaussian and a brick, kept at once
BLOCK = 1 << 12  # pairs evaluated at once: their cells fit into a cache


def density(places: Tensor, turns: Tensor, widths: Tensor, weights: Tensor, size: tuple[int, int, int]) -> Tensor:
    """[N, 3], [N, 3, 3], [N, 3], [N, C] -> [C, X, Y, Z]."""
    rows = torch.cat([places, turns.flatten(1), widths, weights], 1)
    sound = (torch.isfinite(rows).all(1) & (widths > THINNEST).all(1)).nonzero()[:, 0]
    bricks = _bricks(places[sound], turns[sound], widths[sound], weights[sound], size)
    across = _bricks_across(size)
    apart = bricks.reshape(*across, -1, BRICK, BRICK, BRICK).permute(3, 0, 4, 1, 5, 2, 6)
    whole = apart.reshape(-1, *(n * BRICK for n in across))
    return whole[:, : size[0], : size[1], : size[2]].contiguous()


def _bricks(places: Tensor, turns: Tensor, widths: Tensor, weights: Tensor, size: tuple[int, int, int]) -> Tensor:
    """[B, C, BRICK^3] sums of `weights` [N, C] times exp(-d^2 / 2), for Gaussians at `places` [N, 3] in cells."""
    across = _bricks_across(size)
    out = places.new_zeros(across[0] * across[1] * across[2], weights.shape[1], BRICK**3)
    if not len(places):
        return out
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
