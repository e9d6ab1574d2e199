# SPDX-License-Identifier: Apache-2.0
"""A user's asset as a surface with the colours of its textures at its vertices, fine enough to hold them: what scenes
begin with that have no place for a texture."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.texture import texture
from dreamlab.core.foreign.asset import ForeignAsset
from dreamlab.core.foreign.mesh_parser import GRAY
from dreamlab.core.safemath import linear_to_srgb, srgb_to_linear
from dreamlab.core.types import Mesh

MOST_FACES = 120_000  # that triangles are split into where they carry a texture


def coloured(asset: ForeignAsset) -> Mesh:
    """In the file's world; corners are not shared, `read_mesh` joins them. Gray where nothing is known."""
    corners = asset.faces
    places, uv, tint = (value[corners].double() for value in (asset.points, asset.uv, asset.tint))
    slot = asset.slot
    if asset.textured:
        while 4 * len(places) <= MOST_FACES:
            places, uv, tint = (split(value) for value in (places, uv, tint))
            slot = slot.repeat(4)
    colours = base_colours(asset, slot.repeat_interleave(3), uv.flatten(0, 1).float(), tint.flatten(0, 1).float())
    vertices = places.flatten(0, 1).float()
    faces = torch.arange(len(vertices)).reshape(-1, 3)
    return Mesh(vertices, faces, colours, torch.zeros_like(vertices))


def split(corners: Tensor) -> Tensor:
    """[4 F, 3, C] of triangles [F, 3, C], cut at the middles of their edges."""
    a, b, c = corners.unbind(1)
    d, e, f = (a + b) / 2, (b + c) / 2, (c + a) / 2
    return torch.cat([torch.stack(each, 1) for each in ((a, d, f), (d, b, e), (f, e, c), (d, e, f))])


def base_colours(asset: ForeignAsset, slot: Tensor, uv: Tensor, tint: Tensor) -> Tensor:
    """[N, 3] sRGB of places with a slot [N], coordinates [N, 2] and vertex colours [N, 3]; gray where the file says
    nothing of a colour."""
    made = torch.full((len(slot), 3), GRAY)
    for number, facts in enumerate(asset.facts["slots"]):
        rows = (slot == number).nonzero()[:, 0]
        picture, factor = asset.pictures.get(f"base.{number}"), torch.tensor(facts["factor"][:3])
        colour = torch.ones(len(rows), 3)
        if picture is not None:
            read = texture(picture.float() / 255, uv[rows][None, None].nan_to_num(0.0), boundary="wrap")
            colour = srgb_to_linear(read[0, 0, :, :3])
        shade = factor * tint[rows]
        if picture is not None or bool((shade < 0.99).any()):  # white alone is what nobody has chosen
            made[rows] = linear_to_srgb((colour * shade).clamp(0, 1))
    return made
