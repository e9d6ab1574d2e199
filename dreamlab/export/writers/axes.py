# SPDX-License-Identifier: Apache-2.0
"""The other convention of axes: +Z up, front -Y, which programs take for granted in formats that say nothing of it
(Blender and slicers in PLY and STL)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dreamlab.core.foreign.headers import UPRIGHT
from dreamlab.core.types import Mesh

STANDING = (".ply", ".stl")
UP = f"{UPRIGHT}, metres"


def upright(mesh: Mesh) -> Mesh:
    """A mesh with +Y up, turned a quarter about X so that it stands on the plane of X and Y."""
    return replace(mesh, vertices=_turned(mesh.vertices), normals=_turned(mesh.normals))


def lain(points: Tensor) -> Tensor:
    """Points of such a file in our own axes."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], -1)


def _turned(points: Tensor) -> Tensor:
    x, y, z = points.unbind(-1)
    return torch.stack([x, -z, y], -1)
