# SPDX-License-Identifier: Apache-2.0
"""A user's mesh: OBJ, GLB or PLY, as one set of triangles with colours at its vertices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dreamlab.core.errors import InputError
from dreamlab.core.types import Mesh
from renderers.surface import vertex_normals

SUFFIXES = (".obj", ".glb", ".ply")
GRAY = 0.7  # of a file without colours


def read_mesh(path: str, radius: float | None = 0.9) -> Mesh:
    """All parts joined, vertices of equal place merged; moved and scaled into a ball of `radius` around the origin,
    unless that is None. A texture is read at the vertices."""
    import numpy as np
    import trimesh

    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"mesh {path}: must be one of {', '.join(SUFFIXES)}")
    try:
        loaded = trimesh.load(path, force="mesh")
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"mesh {path}: cannot be read ({error})") from None
    if not isinstance(loaded, trimesh.Trimesh) or len(loaded.faces) == 0 or not np.isfinite(loaded.vertices).all():
        raise InputError(f"mesh {path}: has no triangles, or corners that are not finite")
    visual: Any = loaded.visual
    visual = visual.to_color() if hasattr(visual, "to_color") else visual
    colors = torch.full((len(loaded.vertices), 3), GRAY)
    if getattr(visual, "kind", None) in ("vertex", "face"):
        colors = torch.from_numpy(np.array(visual.vertex_colors[:, :3], np.float32)) / 255
    vertices = torch.from_numpy(np.array(loaded.vertices, np.float32))
    places, row = torch.unique(vertices, dim=0, return_inverse=True)
    count = torch.zeros(len(places), 1).index_add(0, row, torch.ones(len(row), 1))
    colors = torch.zeros(len(places), 3).index_add(0, row, colors) / count
    faces = row[torch.from_numpy(np.array(loaded.faces, np.int64))]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    if radius is not None:
        low, high = places.aminmax(dim=0)
        places = places - (low + high) / 2
        places = places * (radius / float(places.norm(dim=-1).max().clamp(min=1e-9)))
    return Mesh(places, faces, colors, vertex_normals(places, faces))
