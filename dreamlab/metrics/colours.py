# SPDX-License-Identifier: Apache-2.0
"""Which of the world's colours a part has, read where the true part projects.

True instances are drawn from the asset's cameras (after alignment) for their parts and their shading. Every pixel
votes for the named colour that, under that shading, is nearest to what is seen: distance in OKLab (Ottosson 2020),
lightness counted half, any exposure within a factor of 1.5 allowed. So brown in the light is not taken for orange in
the shade, and an asset a bit too dark keeps its colours. Where the asset does not cover a part, nobody votes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.colours import oklab
from dreamlab.toybox.caption import Caption
from dreamlab.toybox.category import Category
from dreamlab.toybox.colours import COLOURS, Finish, linear
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import stack
from dreamlab.toybox.shapes import CATEGORIES, program

NAMES = tuple(COLOURS)
ALBEDO = torch.tensor([linear(name) for name in NAMES])  # [12, 3]
PROBE = "gray"
EXPOSURES = (0.67, 0.82, 1.0, 1.22, 1.5)
EXPOSURE_COST = 0.03  # OKLab distance that the farthest exposure costs: black, gray and white must stay apart
LIGHTNESS = 0.5
SHARES = (0.99, 0.6, 0.3)  # of the instances that have the part at a pixel: the strictest that leaves enough pixels
ENOUGH = 2.5  # pixels per view, and never fewer than FEWEST in all
FEWEST = 6
COVERED = 0.3  # of a part's pixels; with less the part is missing


@dataclass(frozen=True)
class PartColour:
    """What was read of one part."""

    part: str
    asked: str
    votes: Tensor  # [12] shares, all 0 when the part is missing
    covered: float  # share of the part's pixels where the asset is

    @property
    def found(self) -> str | None:
        return NAMES[int(self.votes.argmax())] if float(self.votes.sum()) > 0 else None

    @property
    def right(self) -> bool:
        return self.found == self.asked


@dataclass(frozen=True)
class Stencil:
    """Where the parts of a category project, whatever their colours: mean over instances, for V cameras."""

    share: Tensor  # [Q, V, S, S] of the instances that show the part at the pixel
    shade: Tensor  # [Q, V, S, S, 3] light that reaches it, linear
    parts: tuple[str, ...]


def named_parts(category: Category) -> tuple[str, ...]:
    """The two parts whose colours are asked for; a category may have only one."""
    return category.nameable[:2]


def group(category: Category, part: str) -> list[int]:
    """Ids of a part and of those that follow its colour."""
    return [i for i, (name, usual) in enumerate(category.parts.items()) if part in (name, usual)]


def stencil(name: str, cameras: Cameras, size: int, seeds: list[int], parts: tuple[str, ...] | None = None) -> Stencil:
    """Parts and shading of a category's instances, drawn in one neutral colour."""
    category = CATEGORIES[name]
    parts = parts or named_parts(category)
    probes = stack([program(name, dict.fromkeys(category.parts, Finish(PROBE)), seed) for seed in seeds])
    shown = draw(probes, cameras, size)
    light = to_linear((shown.rgb / shown.alpha.clamp(min=1e-3)).clamp(0, 1)) / ALBEDO[NAMES.index(PROBE)]
    solid = shown.alpha[..., 0] > 0.75
    masks = [torch.isin(shown.part, torch.tensor(group(category, part))) & solid for part in parts]
    here = torch.stack(masks).float()  # [Q, K, V, S, S]
    count = here.sum(1).clamp(min=1)
    shade = (here[..., None] * light).sum(1) / count[..., None]
    return Stencil(here.mean(1), shade, parts)


def read(rgb: Tensor, alpha: Tensor, caption: Caption, where: Stencil) -> list[PartColour]:
    """Colours of the asked parts; views premultiplied over black [V, S, S, 3] with alpha [V, S, S, 1]."""
    asked = caption.colours
    albedo = to_linear((rgb / alpha.clamp(min=1e-3)).clamp(0, 1))
    enough = max(FEWEST, ENOUGH * len(rgb))
    found = []
    for i, part in enumerate(where.parts):
        weight = where.share[i]
        place = next((p for least in SHARES if int((p := weight >= least).sum()) >= enough), weight > 0)
        covered = place & (alpha[..., 0] > 0.5)
        share = float(weight[covered].sum() / weight[place].sum().clamp(min=1e-6))
        votes = torch.zeros(len(NAMES))
        if share >= COVERED and bool(covered.any()):
            nearest = nearest_colour(albedo[covered], where.shade[i][covered])
            votes.index_add_(0, nearest, weight[covered])
            votes = votes / votes.sum()
        found.append(PartColour(part, asked[part], votes, share))
    return found


def nearest_colour(seen: Tensor, shade: Tensor) -> Tensor:
    """[N] index of the named colour; `seen` [N, 3] and `shade` [N, 3] linear."""
    weight = torch.tensor([LIGHTNESS, 1.0, 1.0])
    target = oklab(seen)
    best = torch.full((len(seen), len(NAMES)), float("inf"))
    for exposure in EXPOSURES:
        guess = oklab((exposure * shade[:, None] * ALBEDO).clamp(0, 1))  # [N, 12, 3]
        apart = ((guess - target[:, None]) * weight).norm(dim=-1)
        cost = EXPOSURE_COST * abs(torch.tensor(exposure).log() / torch.tensor(EXPOSURES[-1]).log())
        best = torch.minimum(best, apart + cost)
    return best.argmin(1)


def to_linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
