# SPDX-License-Identifier: Apache-2.0
"""The colours of a given picture, and those of this world that stand in their place.

The prior knows twelve colours by name and draws nothing else on a side that the picture does not show. So it is shown
pictures in which the picture's colours are replaced by the world's: what it then asks for, in its own colours, reaches
the scene through the same map backwards, as the picture's. The map adds to a colour what its nearest known pairs are
apart; it is smooth, leaves what is far from all pairs as it is, and never folds (SPAN of a difference over REACH
apart), so that it has an inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.types import Reference
from guidance.toybox.volume import MASK, SHOWN

REACH = 0.26  # deviation of what counts as the same colour, sRGB
SPAN = 0.3  # a difference is cut to this length
PART = SHOWN - 1  # of what a volume shows: the second part
SEEN, CELLS = 0.6, 3  # share of a cell, and number of cells, from which a part counts as seen
ROUNDS = 60  # of the iteration that finds the inverse


@dataclass(frozen=True, eq=False)
class Palette:
    given: Tensor  # [N, 3] sRGB in the picture
    world: Tensor  # [N, 3] in this world

    def to(self, device: torch.device) -> Palette:
        return Palette(self.given.to(device), self.world.to(device))

    def offset(self, colour: Tensor) -> Tensor:  # [..., 3] -> [..., 3]
        """What is added to a colour of the picture."""
        move = self.world - self.given
        move = move * (SPAN / move.norm(dim=-1, keepdim=True).clamp(min=1e-6)).clamp(max=1.0)
        apart = (colour[..., None, :] - self.given).square().sum(-1)
        near = torch.exp(-apart / (2 * REACH**2))
        return (near / near.sum(-1, keepdim=True).clamp(min=1.0)) @ move

    def to_world(self, colour: Tensor) -> Tensor:
        """Differentiable."""
        return colour + self.offset(colour) if len(self.given) else colour

    def to_given(self, colour: Tensor) -> Tensor:
        """The inverse of `to_world`, for looking."""
        found = colour
        for _ in range(ROUNDS if len(self.given) else 0):
            found = found + 0.7 * (colour - found - self.offset(found))
        return found


Pair = tuple[Tensor, Tensor]  # [3] in the picture, [3] in the world


def parts_of(given: Reference, shown: Tensor) -> list[Pair | None]:
    """The colours of a picture and of what a volume shows [h, w, SHOWN] from its side, of the main part and of the
    second, where both agree that it is seen; on the cells of the volume's picture."""
    picture = torch.cat([given.rgb * given.alpha, given.alpha], -1).permute(2, 0, 1)[None].cpu()
    small = F.interpolate(picture, shown.shape[:2], mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    cover, world = small[..., 3], shown[..., MASK]
    there = (cover > SEEN) & (world > SEEN)
    second = shown[..., PART] / world.clamp(min=1e-3)
    pairs: list[Pair | None] = []
    for part in (there & (second < 1 - SEEN), there & (second > SEEN)):
        if int(part.sum()) < CELLS:
            pairs.append(None)
            continue
        own = small[..., :3][part] / cover[part][:, None]
        theirs = shown[..., :3][part] / world[part][:, None]
        pairs.append((own.median(0).values, theirs.clamp(0, 1).median(0).values))
    return pairs


def matched(given: Reference, shown: Tensor) -> Palette:
    """The palette of a picture and of what stands in its place."""
    pairs = [pair for pair in parts_of(given, shown) if pair is not None]
    if not pairs:
        return NOTHING
    return Palette(torch.stack([own for own, _ in pairs]), torch.stack([theirs for _, theirs in pairs]))


NOTHING = Palette(torch.zeros(0, 3), torch.zeros(0, 3))
