# SPDX-License-Identifier: Apache-2.0
"""What regions of a surface are made of, from pictures under a known light: base colour, roughness, metallic.

Given roughness and metallic a region's base colour is a weighted mean in closed form (weights of Geman and McClure's
loss). Those two are tried on a grid: each says how bright the pixels of a region are in a view, and that is held
against the picture *sorted*, channel by channel, which is the transport between the two distributions. A surface that
was found has normals that are off by more than a lobe is wide (median 4 degrees, a tenth of the pixels 20, where gloss
is 5 wide): pixel by pixel a highlight that is expected beside the true one counts twice against what made it, and
nothing but matte survives. Sorted, it may lie anywhere in the region.

Where no pixel lies under the lobe all roughnesses explain the pictures alike; then the nearest to the usual is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.core.types import PLAIN
from renderers.light.lamp import LampLight, factors

ROUGHNESS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
METALLIC = (0.0, 0.5, 1.0)
NOISE = 0.03  # sRGB deviation of a pixel that is as it should be
WHITE = 0.985  # sRGB of a channel that is cut off
ROUNDS = 4  # of weighting
DOUBT = 0.03  # NOISEs of every pixel that a step from the usual to the other end of the grid must explain ...
FEW = 100.0  # ... and of so many pixels besides


@dataclass(frozen=True)
class MadeOf:
    """Of R regions."""

    base: Tensor  # [R, 3] linear
    roughness: Tensor  # [R]
    metallic: Tensor  # [R]


def recover(seen: Tensor, region: Tensor, view: Tensor, count: int, at: LampLight) -> MadeOf:
    """Of pixels `seen` [M, 3] in sRGB with their `region` [M] of `count`, their `view` [M] and their light."""
    own = explained(seen, based(seen, region, count, *factors(at, 1.0, 0.0))[region])
    seen, region, view, at = seen[own], region[own], view[own], LampLight(*(each[own] for each in at))
    group = region * (int(view.max()) + 1) + view if len(view) else region
    truth, order = in_order(seen, group), group.argsort(stable=True)
    tried = [(r, m) for r in ROUGHNESS for m in METALLIC]
    bases, misfits = [], []
    for each in tried:
        scale, offset = factors(at, *each)
        base = based(seen, region, count, scale, offset)
        shown = in_order(linear_to_srgb((base[region] * scale + offset).clamp(0, 1)), group)
        apart = (shown - truth).abs().sum(-1) / NOISE
        misfits.append(apart.new_zeros(count).index_add(0, region[order], apart))
        bases.append(base)
    table, misfit = seen.new_tensor(tried), torch.stack(misfits, 1)  # [T, 2], [R, T]
    many = torch.bincount(region, minlength=count).to(misfit)[:, None]
    away = (table - table.new_tensor(PLAIN)).square().sum(1)
    best = ((misfit + FEW * away) / (many + 1) + DOUBT * away).argmin(1)
    base = torch.stack(bases, 1)[torch.arange(count, device=best.device), best]
    return MadeOf(base, *table[best].unbind(1))


def based(seen: Tensor, region: Tensor, count: int, scale: Tensor, offset: Tensor) -> Tensor:
    """[R, 3] the linear base colours that explain most of each region's pixels."""
    # Each pixel's own answer counts alike: by squares of the light a lobe that is not where it should be would decide.
    each, trust = (srgb_to_linear(seen) - offset) / scale.clamp(min=1e-3), torch.ones_like(seen[:, :1])
    base = each.new_zeros(count, 3)
    for _ in range(ROUNDS):
        answers = (trust * each, trust.expand(-1, 3))
        above, under = (each.new_zeros(count, 3).index_add(0, region, one) for one in answers)
        base = (above / under.clamp(min=1e-9)).clamp(0, 1)
        error = ((linear_to_srgb((base[region] * scale + offset).clamp(0, 1)) - seen) / NOISE).square().sum(-1)
        trust = 1 / (1 + error[:, None]).square()
    return base


def explained(seen: Tensor, colour: Tensor) -> Tensor:
    """[M] bool: pixels that are some of their region's colour and some white, as gloss on it is, or so bright that a
    channel is cut off; the others show something else."""
    light, white = srgb_to_linear(seen), torch.full_like(colour, 3**-0.5)
    along = torch.nn.functional.normalize(colour, dim=-1)
    across = torch.nn.functional.normalize(white - along * (white * along).sum(-1, keepdim=True), dim=-1, eps=1e-3)
    mine, gray = ((light * each).sum(-1, keepdim=True).clamp(min=0) for each in (along, across))
    near = (linear_to_srgb((mine * along + gray * across).clamp(0, 1)) - seen).abs().amax(-1) < 2 * NOISE
    return near | (seen > WHITE).any(-1)


def in_order(values: Tensor, group: Tensor) -> Tensor:
    """[M, C] group after group, each channel from dark to bright."""
    columns = []
    for column in values.unbind(-1):
        rising = column.argsort()
        columns.append(column[rising][group[rising].argsort(stable=True)])
    return torch.stack(columns, -1)
