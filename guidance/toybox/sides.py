# SPDX-License-Identifier: Apache-2.0
"""From which side a picture was taken, by looking at what the words make: analysis by synthesis.

A reader of pictures is unsure of sides where strangers draw other proportions. But once it is said what is shown, the
prior's volume shows that from all around; the side whose silhouette and colours are most like the picture's is worth
as much as what the reader says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from guidance.toybox.reader import FILL, prepared

AROUND = 36  # sides, 10 degrees apart
CELLS = 32  # of their pictures
ALIKE = 10.0  # weight of likeness beside the reader's log-probability
LEAST = 1e-4  # probability that the reader leaves any side at least


def framed(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Premultiplied [B, H, W, .] -> colour and alpha [B, CELLS, CELLS, 4], each object as large as it can be."""
    x = prepared(rgb, alpha, FILL)
    cover = (x[..., 3:] + 1) / 2
    small = torch.cat([(x[..., :3] + cover) / 2, cover], -1).permute(0, 3, 1, 2)
    return F.interpolate(small, (CELLS, CELLS), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def likeness(picture: Tensor, shown: Tensor) -> Tensor:
    """[B] of a framed picture [1, n, n, 4] to some [B, n, n, 4]: overlap of the silhouettes less the squared difference
    of colours over their union."""
    union = torch.maximum(picture[..., 3], shown[..., 3]).sum((1, 2)).clamp(min=1e-6)
    overlap = torch.minimum(picture[..., 3], shown[..., 3]).sum((1, 2)) / union
    return overlap - (picture[..., :3] - shown[..., :3]).square().sum((1, 2, 3)) / union


def azimuths() -> Tensor:
    return torch.arange(AROUND) * (360.0 / AROUND) - 180.0


def best_side(alike: Tensor, turn: Tensor) -> float:
    """The azimuth of AROUND [AROUND] that likeness and the reader's directions [TURNS] (probabilities, the first is
    the front) speak for together."""
    wide = turn + turn.roll(1) + turn.roll(-1)
    sides = azimuths()
    place = (torch.remainder(sides, 360.0) * (len(turn) / 360.0)).round().long() % len(turn)
    return float(sides[(wide[place].clamp(min=LEAST).log() + ALIKE * alike).argmax()])
