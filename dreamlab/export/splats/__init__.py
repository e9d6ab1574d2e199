# SPDX-License-Identifier: Apache-2.0
"""Gaussians as files: GLB with KHR_gaussian_splatting, the PLY of 3DGS, `.splat` and SPZ.

The axes of GLB and SPZ are ours: right, up, back. PLY and `.splat` have none of their own; viewers take what 3DGS
trains, right, down, forward, which is `rdf`; `rub` leaves ours.
"""

from __future__ import annotations

from dreamlab.core.types import Splats
from renderers.gaussian.files import ABOUT_X
from renderers.gaussian.placed import placed

AXES = ("rdf", "rub")


def in_axes(splats: Splats, axes: str) -> Splats:
    """Ours in the axes of a file."""
    if axes == "rub":
        return splats
    return placed(splats, 1.0, splats.quats.new_tensor(ABOUT_X), splats.means.new_zeros(3))
