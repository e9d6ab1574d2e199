# SPDX-License-Identifier: Apache-2.0
"""One square on which every material of a user's asset has a tile, and the surface that is painted there at the asset's
own texture coordinates. `renderers.surface.stretch` makes it.

Texture coordinates beyond the unit square repeat the texture: triangles are cut where it begins anew, so that each
piece lies in its tile. Places that share texels (mirrored halves, copies) share them here, too: their gradients add."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext.texture import texture
from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.foreign.mesh_parser import GRAY
from dreamlab.core.types import Mesh, Textures
from renderers.surface.atlas import Atlas
from renderers.surface.draw import vertex_normals

SUFFIX = ".canvas"
MOST_FILE = 1 << 30


@dataclass(frozen=True)
class OwnCanvas:
    """What the `mesh` scene paints, and what its paint means for the file."""

    mesh: Mesh  # in the ball; corners of equal place and normal are one
    atlas: Atlas
    start: Tensor  # [S, S, 5] bytes: base colour (sRGB), roughness, metallic of the file
    tiles: Tensor  # [slots, 4] low u, low v, high u, high v of each slot on the square
    alphas: Mapping[str, Tensor]  # slot -> [h, w, 1] bytes, where its base texture has some that is shown
    fresh: Mapping[str, Tensor]  # part -> [f, 3, 2] new coordinates of its triangles, in the file's order
    facts: Json  # slots, parts, what was noticed; `centre` and `scale`: file -> ball

    def bytes(self) -> bytes:
        from safetensors.torch import save

        shape = {"vertices": self.mesh.vertices, "faces": self.mesh.faces, "start": self.start}
        shape |= {f"atlas.{name}": value for name, value in self.atlas._asdict().items()} | {"tiles": self.tiles}
        shape |= {f"fresh.{name}": value for name, value in self.fresh.items()}
        shape |= {f"alpha.{name}": value for name, value in self.alphas.items()}
        return save({key: value.contiguous() for key, value in shape.items()}, {"facts": json.dumps(self.facts)})

    def alpha(self, slot: int, size: tuple[int, int]) -> Tensor | None:
        """[height, width, 1] of a slot's base texture, where it is shown."""
        found = self.alphas.get(str(slot))
        return None if found is None else _resized(found.float() / 255, (0.0, 0.0, 1.0, 1.0), size)

    def cropped(self, picture: Tensor, slot: int, size: tuple[int, int]) -> Tensor:
        """[height, width, C] of one slot from a picture of the whole square; `size` is (width, height)."""
        u0, v0, u1, v1 = self.tiles[slot].tolist()
        return _resized(picture.float(), (u0, v0, u1, v1), size)


def _resized(picture: Tensor, part: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """[height, width, C] of a part of a picture, bilinear; `size` is (width, height)."""
    (u0, v0, u1, v1), (wide, high) = part, size
    u = u0 + (torch.arange(wide) + 0.5) / wide * (u1 - u0)
    v = v0 + (torch.arange(high) + 0.5) / high * (v1 - v0)
    at = torch.stack(torch.meshgrid(v, u, indexing="ij"), -1).flip(-1)
    return texture(picture, at[None], boundary="clamp")[0]


def canvas_from(data: bytes, what: str) -> OwnCanvas:
    """What `OwnCanvas.bytes` wrote; InputError if it did not."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        size = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["facts"])
        held = load(data)
        atlas = Atlas(*(held[f"atlas.{name}"] for name in Atlas._fields))
        vertices, faces = held["vertices"], held["faces"]
        within = ((faces, len(vertices)), (atlas.faces, len(atlas.uv)), (atlas.source, len(vertices)))
        if not all(bool(((index >= 0) & (index < count)).all()) for index, count in within):
            raise ValueError("rows that are not there")
        mesh = Mesh(vertices, faces, torch.full_like(vertices, GRAY), vertex_normals(vertices, faces))
        fresh, alphas = (
            {name.removeprefix(key): value for name, value in held.items() if name.startswith(key)}
            for key in ("fresh.", "alpha.")
        )
        return OwnCanvas(mesh, atlas, held["start"], held["tiles"], alphas, fresh, facts)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise InputError(f"{what}: is no canvas that can be read ({' '.join(str(error).split())[:100]})") from None


def own_textures(canvas: OwnCanvas, made: Textures, slot: int, size: tuple[int, int]) -> Textures:
    """The material of one slot at its own size."""
    normal = None if made.normal is None else canvas.cropped(made.normal.cpu(), slot, size)
    base, rough, metal = (canvas.cropped(each.cpu(), slot, size) for each in (made.base, made.roughness, made.metallic))
    return Textures(base, rough, metal, normal)
