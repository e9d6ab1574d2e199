# SPDX-License-Identifier: Apache-2.0
"""What is asked of a finished surface: whether it is closed (seams of texture coordinates are no openings), of how many
pieces, with how many handles, how good its triangles are, how its texture coordinates lie."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.raster import raster
from dreamlab.core.files import Json
from dreamlab.core.triangles import areas
from dreamlab.core.types import Mesh
from renderers.surface.clean import parts_of, signed_volumes
from renderers.surface.pictures import joined_by_place

THIN = 10.0  # longest side over the height on it: above this a triangle is a sliver
GRID = 1024  # texels a side of the picture that overlaps are counted in


def slivers(vertices: Tensor, faces: Tensor) -> float:
    """Share of triangles that are thinner than 1 : THIN."""
    a, b, c = vertices[faces].double().unbind(1)
    longest = torch.stack([(b - a).norm(dim=-1), (c - b).norm(dim=-1), (a - c).norm(dim=-1)]).amax(0)
    height = 2 * areas(vertices.double(), faces) / longest.clamp(min=1e-30)
    return float((longest > THIN * height).double().mean()) if len(faces) else 0.0


def edges_of(faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every edge once [E, 2], how many faces have it [E], and how many more of them run up it than down [E]."""
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    low, high = ends.min(1).values, ends.max(1).values
    key, back, count = torch.unique((low << 32) + high, return_inverse=True, return_counts=True)
    way = torch.zeros(len(key), dtype=torch.int64).index_add(0, back, torch.where(ends[:, 0] == low, 1, -1))
    return torch.stack([key >> 32, key & 0xFFFFFFFF], 1), count, way


def health(mesh: Mesh) -> Json:
    """The report on a surface on the host."""
    places, faces, _ = joined_by_place(mesh.vertices, mesh.faces)
    a, b, c = faces.unbind(1)
    faces = faces[(a != b) & (b != c) & (c != a)]
    edges, count, way = edges_of(faces)
    named = torch.unique(faces)
    parts = 1 + int(parts_of(faces, len(places)).max()) if len(faces) else 0
    closed = bool((count == 2).all()) and bool((way == 0).all()) and len(faces) > 0
    euler = len(named) - len(edges) + len(faces)
    corners = places[named] if len(named) else places.new_zeros(1, 3)
    found: Json = {
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "places": len(named),
        "watertight": closed,
        "parts": parts,
        "genus": parts - euler // 2 if closed else None,
        "open_edges": int((count == 1).sum()),
        "crowded_edges": int((count > 2).sum()),
        "turned_edges": int(((count == 2) & (way != 0)).sum()),
        "slivers": slivers(places, faces),
        "area": float(areas(places, faces).sum()),
        "volume": float(signed_volumes(places, faces).sum()),
        "bounds": [corners.amin(0).tolist(), corners.amax(0).tolist()],
    }
    return found | (_of_coordinates(mesh) if mesh.uv is not None else {})


def _of_coordinates(mesh: Mesh) -> Json:
    """Texture coordinates: share of the square covered, share of that covered more than once, texels per metre."""
    assert mesh.uv is not None
    a, b, c = mesh.uv[mesh.faces].double().unbind(1)
    flat = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2
    whole = areas(mesh.vertices, mesh.faces).double()
    density = (flat / whole.clamp(min=1e-12)).sqrt()
    texels = GRID if mesh.textures is None else mesh.textures.base.shape[0]
    weight = whole / whole.sum().clamp(min=1e-12)
    mean = float((density * weight).sum()) * texels
    spread = float((((density * texels - mean).square() * weight).sum()).sqrt())
    return {
        "uv_cover": float(flat.sum()),
        "uv_overlap": overlap(mesh.uv, mesh.faces),
        "uv_inside": bool(((mesh.uv >= 0) & (mesh.uv <= 1)).all()),
        "texels_per_metre": mean,
        "texels_per_metre_spread": spread,
    }


def overlap(uv: Tensor, faces: Tensor, size: int = GRID) -> float:
    """Share of the texels under charts that more than one triangle covers: of those at one depth the rasteriser keeps
    the first, so that drawing them in the other order shows where there is another. Neighbours share no texel."""
    first, last = _covered(uv, faces, size), _covered(uv, faces.flip(0), size)
    twice = (first > 0) & (first + last != len(faces) + 1)
    return float(twice.sum()) / max(float((first > 0).sum()), 1.0)


def _covered(uv: Tensor, faces: Tensor, size: int) -> Tensor:
    """[size, size] 1 + the first of the triangles that cover each texel."""
    across = 2 * uv.float() - 1
    clip = torch.stack([across[:, 0], -across[:, 1], torch.zeros_like(across[:, 0]), torch.ones_like(across[:, 0])], 1)
    return raster(clip, faces, (size, size)).triangle[0]
