# SPDX-License-Identifier: Apache-2.0
"""What writers of files are given: one surface with its material and motion, on the host, and where it comes from."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dreamlab.core.files import Json
from dreamlab.core.types import Mesh, Skin, Splats, Track
from dreamlab.recipe.grammar import SplatSettings


class Companion(NamedTuple):
    """A further mesh in the file of an asset."""

    name: str
    mesh: Mesh
    solid: bool = False  # it is there to be collided with: no material, no motion


@dataclass(frozen=True)
class Product:
    """In metres, +Y up, front +Z (glTF's axes). Writers of other axes turn it themselves."""

    name: str  # of objects and materials in the file; a slug
    mesh: Mesh  # with `uv`, `tangents` and `textures` where it has a material, else with colours of vertices
    motion: Skin | Track | None = None  # of the vertices of `mesh`
    levels: tuple[Mesh, ...] = ()  # the same with fewer and fewer triangles
    parts: tuple[Companion, ...] = ()  # in the same file, beside `mesh`; presets ask for them
    clip: str = "motion"  # the name of its animation
    splats: Splats | None = None  # of a scene that is made of Gaussians
    frames: tuple[Splats, ...] = ()  # of Gaussians that move, at equal steps of the clip
    splatting: SplatSettings = field(default_factory=SplatSettings)  # how those are written
    origin: Json = field(default_factory=dict)  # prompt, seed, recipe, models, version; empty: it is not told


Files = Mapping[str, bytes]  # by name inside the export's folder, the one to open first


def packed(files: Files) -> bytes:
    """A zip of the same bytes for the same files: nothing in it tells when it was made."""
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(Path(name).name, (1980, 1, 1, 0, 0, 0)), data)
    return kept.getvalue()


class Format(NamedTuple):
    """A way to write an asset."""

    write: Callable[[Product], Files]
    of: str = "mesh"  # or splats
