# SPDX-License-Identifier: Apache-2.0
"""Levels of detail: a finished surface with fewer triangles, laid out anew, its textures read off the finer one.

Decimation across the seams of an atlas tears it, and along them it leaves more triangles than were asked for. So a
level gets an atlas of its own, of half the texels when it has a quarter of the triangles or less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from cuda_ext.texture import texture
from dreamlab.core.files import Json
from dreamlab.core.types import Mesh, Textures
from renderers.surface.atlas import unwrap
from renderers.surface.finish.baking import GUTTER, Grown, laid_out, relief_at
from renderers.surface.finish.journal import Journal, Way
from renderers.surface.finish.parcel import packed
from renderers.surface.finish.repair import sound
from renderers.surface.finish.simplify import decimated
from renderers.surface.finish.transfer import apart, diagonal, feet
from renderers.surface.pictures import drawn, likeness
from renderers.surface.views import SIZE, VIEWS, all_around

SHARES = (0.5, 0.25, 0.1)
SMALLEST = 64  # texels a side


class Coarser(NamedTuple):
    """A level, and how far it is from the surface it stands for."""

    mesh: Mesh
    facts: Json  # triangles, share; rms and max in metres, share of the diagonal, psnr, silhouette_iou


def levels(
    mesh: Mesh, shares: Sequence[float] = SHARES, seconds: float = 300.0, memory: int = 8 << 30
) -> list[Coarser]:
    """All of them, each made in a bounded process; one that fails is left out, and so are coarser ones."""
    found = []
    for share in shares:
        journal = Journal(seconds, memory)

        def work(share: float = share) -> tuple[dict[str, torch.Tensor], Json]:
            made = coarser(mesh, share)
            return packed(made.mesh), made.facts

        ways = [Way(f"1/{1 / share:g}", work)]
        before = len(journal.steps)
        made = journal.mesh("level", ways, mesh)
        step = journal.steps[before]
        if step["way"] == "none":
            break
        facts = {key: value for key, value in step.items() if key not in ("name", "way", "why")}
        found.append(Coarser(made, facts))
    return found


def coarser(mesh: Mesh, share: float) -> Coarser:
    """With about so large a share of the triangles."""
    shape = sound(replace(mesh, uv=None, tangents=None, textures=None))
    count = max(int(share * len(mesh.faces)), 4)
    small = decimated(shape, count)
    made = small if mesh.textures is None or mesh.uv is None else _dressed(small, mesh, share)
    here, there = (small.vertices, small.faces), (shape.vertices, shape.faces)
    rms, most = apart(here, there)
    cameras = all_around(VIEWS)
    kept = likeness(drawn(mesh, cameras, SIZE), drawn(made, cameras, SIZE))
    return Coarser(
        made,
        {
            "triangles": len(made.faces),
            "share": len(made.faces) / max(len(mesh.faces), 1),
            "rms": rms,
            "max": most,
            "of_diagonal": rms / max(diagonal(*there), 1e-12),
            "psnr": kept.psnr,
            "silhouette_iou": kept.iou,
        },
    )


def _dressed(small: Mesh, fine: Mesh, share: float) -> Mesh:
    """The level with an atlas and textures of its own."""
    assert fine.textures is not None and fine.uv is not None
    pictures = fine.textures
    size = pictures.base.shape[0]
    size = max(size // 2, min(size, SMALLEST)) if share <= 0.25 else size
    atlas = unwrap(small.vertices, small.faces, size, gutter=GUTTER * size)
    canvas = laid_out(small, atlas, size)
    at = canvas.at(size)
    points, _ = canvas.frame(at)
    found = feet(fine.vertices, fine.faces, points)
    occlusion = (
        pictures.base.new_ones(*pictures.base.shape[:2], 1) if pictures.occlusion is None else pictures.occlusion
    )
    layers = torch.cat([pictures.base, pictures.roughness, pictures.metallic, occlusion], -1)
    uv = found.read(fine.uv)
    read = texture(layers, uv[None, None], boundary="clamp")[0, 0]
    grown = Grown.of(at)
    base, roughness, metallic, shade = (grown.picture(part) for part in read.split([3, 1, 1, 1], -1))
    normal = None
    if pictures.normal is not None or share < 1:
        world = found.read(fine.normals)
        if pictures.normal is not None and fine.tangents is not None:
            world = _bent(found.read(fine.normals), found.read(fine.tangents), texture(
                pictures.normal, uv[None, None], boundary="clamp")[0, 0])  # fmt: skip
        normal = grown.picture(relief_at(canvas, at, world), torch.tensor([0.5, 0.5, 1.0]))
    dressed = Textures(base, roughness, metallic, normal, None if pictures.occlusion is None else shade)
    mesh = canvas.mesh
    assert mesh.uv is not None
    return replace(mesh, colours=texture(base, mesh.uv[None, None], boundary="clamp")[0, 0], textures=dressed)


def _bent(normals: torch.Tensor, tangents: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """[M, 3] world normals of tangent-space ones, given as colours."""
    normal = torch.nn.functional.normalize(normals, dim=-1)
    along = tangents[:, :3] - normal * (normal * tangents[:, :3]).sum(-1, keepdim=True)
    along = torch.nn.functional.normalize(along, dim=-1)
    across = torch.linalg.cross(normal, along) * tangents[:, 3:].sign()
    x, y, z = (2 * colours - 1).split(1, -1)
    return x * along + y * across + z * normal
