# SPDX-License-Identifier: Apache-2.0
"""A user's mesh or point cloud as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.apart import parsed
from dreamlab.core.foreign.asset import read_asset
from dreamlab.core.foreign.files import checked_size
from dreamlab.core.foreign.mesh_parser import MOST_FILE
from dreamlab.core.foreign.usd import SUFFIXES as USD
from dreamlab.core.safemath import linear_to_srgb

MESHES = (".obj", ".glb", ".gltf", ".ply", ".stl", ".off", *USD)
CLOUDS = (*MESHES, ".xyz")  # what Gaussians are seeded on


@dataclass(frozen=True)
class Shape:
    """In the file's world; all parts joined."""

    vertices: Tensor  # [V, 3] float64
    faces: Tensor  # [F, 3] int64; none: a cloud
    colours: Tensor | None  # [V, 3] sRGB in [0, 1]


def read_shape(path: Path, what: str, suffixes: tuple[str, ...] = MESHES) -> Shape:
    """The triangles of a file or, if it has none, its points; InputError says in one line what is wrong with it."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{what} {path}: must be one of {', '.join(suffixes)}")
    checked_size(path, what, MOST_FILE)
    if path.suffix.lower() in USD:
        asset = read_asset(path, what)
        return Shape(asset.points, asset.faces, linear_to_srgb(asset.tint))
    found = {name: torch.from_numpy(array) for name, array in parsed("mesh", path, what).items()}
    colours = found.get("colours")
    if colours is not None:
        colours = torch.where(found["linear"][:, None], linear_to_srgb(colours), colours).clamp(0, 1)
    return Shape(found["vertices"], found["faces"], colours)
