# SPDX-License-Identifier: Apache-2.0
"""Needles: what sticks out of a silhouette, or floats beside it, thinner than a body can be.

A cloud that learns from one camera may hold Gaussians that are lines there. Of what can be seen of an asset, a disc of
`RADIUS` pixels is moved everywhere it fits (an opening, Serra 1982); what it never covers is thin, and a piece of it
that is `LONG` pixels or more is a needle, were it a key's tooth. So figures mean something beside those of other
assets of the same kind, and of the picture itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dreamlab.metrics.crispness import FAINT

SIZE = 256  # pixels a side of the pictures that the two lengths speak of
RADIUS, LONG = 2, 8


@dataclass(frozen=True)
class Needles:
    count: float  # thin pieces a view
    share: float  # of what can be seen, all that is thin


def needles(alpha: Tensor) -> Needles:
    """Means over views, of alpha [B, SIZE, SIZE, 1]."""
    from scipy.ndimage import binary_opening, find_objects, label

    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    disc, eight = x * x + y * y <= RADIUS * RADIUS, np.ones((3, 3), bool)
    count, thin, seen = 0, 0, 0
    for one in alpha:
        there = one[..., 0].cpu().numpy() > FAINT
        rest = there & ~binary_opening(there, disc)
        boxes = find_objects(label(rest, eight)[0])
        count += sum(max(side.stop - side.start for side in box) >= LONG for box in boxes)
        thin, seen = thin + int(rest.sum()), seen + int(there.sum())
    return Needles(count / len(alpha), thin / max(seen, 1))
