# SPDX-License-Identifier: Apache-2.0
"""A user's asset as tensors, with its materials: what is painted when its geometry must stay as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.foreign.apart import parsed
from dreamlab.core.foreign.files import checked_size
from dreamlab.core.foreign.mesh_parser import MOST_FILE
from dreamlab.core.foreign.usd import SUFFIXES as USD

ASSETS = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off", *USD)
WORN = (".glb", ".gltf", ".obj")  # of these the materials are read, and written


@dataclass(frozen=True)
class ForeignAsset:
    """In the file's world, every part where its nodes put it."""

    points: Tensor  # [V, 3] float64
    faces: Tensor  # [F, 3] int64
    uv: Tensor  # [V, 2] v grows downward; NaN: none
    normals: Tensor  # [V, 3]; NaN: none
    tint: Tensor  # [V, 3] linear, colours of vertices
    slot: Tensor  # [F] of `facts["slots"]`, the materials
    part: Tensor  # [F] of `facts["parts"]`, the primitives as they are placed
    pictures: Mapping[str, Tensor]  # base.I and rough_metal.I of slot I, [h, w, 4] bytes
    facts: Json

    @property
    def textured(self) -> bool:
        """Whether it has texture coordinates and a picture at them."""
        return bool(self.pictures) and bool(self.uv.isfinite().all(1).any())


def read_asset(path: Path, what: str, bare: bool = False) -> ForeignAsset:
    """InputError says in one line what is wrong with the file; that it has no triangles is so unless it may be `bare`
    of them."""
    if path.suffix.lower() not in ASSETS:
        raise InputError(f"{what} {path}: must be one of {', '.join(ASSETS)}")
    checked_size(path, what, MOST_FILE)
    found = {name: torch.from_numpy(array) for name, array in parsed("asset", path, what).items()}
    facts = json.loads(found.pop("facts").numpy().tobytes())
    pictures = {name: value for name, value in found.items() if "." in name}
    rows = {name: value for name, value in found.items() if "." not in name}
    if not len(rows["faces"]) and not bare:
        raise InputError(f"{what} {path}: holds no triangles")
    return ForeignAsset(**rows, pictures=pictures, facts=facts)
