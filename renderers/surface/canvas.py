# SPDX-License-Identifier: Apache-2.0
"""A user's asset made ready to be painted at its own texture coordinates: one surface, and one square on which every
material has a tile. The asset itself is not touched; what is repaired is repaired here, and said.

Texture coordinates beyond the unit square repeat the texture: triangles are cut where it begins anew, so that each
piece lies in its tile. Places that share texels (mirrored halves, copies) share them here, too: their gradients add.
What has no coordinates, or is asked to, is unwrapped afresh.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cuda_ext.raster import raster
from cuda_ext.texture import texture
from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.foreign.asset import WORN, ForeignAsset, read_asset
from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.types import Mesh, Textures
from renderers.surface.atlas import Atlas, unwrap
from renderers.surface.bake import texels
from renderers.surface.coloured import base_colours
from renderers.surface.draw import vertex_normals
from renderers.surface.winding import turned_over

SUFFIX = ".canvas"
RADIUS = 0.9  # of the ball that it is moved and scaled into, as `files.read_mesh` does
MARGIN = 1 / 32  # of a tile, around it, when there are several
MOST_SLOTS, MOST_CUT, MOST_FILE = 64, 400_000, 1 << 30
GRAY = 0.7  # what nothing is known of begins with
LOOK = 512  # texels a tile that sharing is looked for at
START = 512  # texels a side of the square that the file's own pictures are kept at
REPEAT, CLAMP, MIRROR = 10497, 33071, 33648  # of a glTF sampler
UPRIGHT = {"y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)), "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0))}  # rows: the file's up axis


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


def read_canvas(path: Path) -> OwnCanvas:
    """A canvas file of a run, or a user's asset made into one."""
    if path.suffix == SUFFIX:
        return canvas_from(read_bytes(path, "canvas", MOST_FILE), f"canvas {path}")
    return canvas_of(read_asset(path, "mesh"), str(path))


@dataclass
class _Soup:
    """Triangles with their corners written out; everything [F, 3, ...] but `slot`."""

    points: Tensor  # float64
    uv: Tensor
    normals: Tensor
    tint: Tensor
    slot: Tensor  # [F]

    def take(self, rows: Tensor) -> _Soup:
        return _Soup(self.points[rows], self.uv[rows], self.normals[rows], self.tint[rows], self.slot[rows])


def canvas_of(asset: ForeignAsset, name: str, fresh: bool = False, up: str = "y") -> OwnCanvas:
    """`fresh`: unwrapped anew even where the file has coordinates. `up`: the file's axis that points up."""
    facts, lines = asset.facts, list(asset.facts["notes"])
    where = asset.points @ torch.tensor(UPRIGHT[up], dtype=torch.float64).T
    centre = (where.amin(0) + where.amax(0)) / 2
    scale = RADIUS / float((where - centre).norm(dim=-1).max())
    place = ((where - centre) * scale).float().double()
    corners = asset.faces
    soup = _Soup(place[corners], asset.uv[corners], asset.normals[corners], asset.tint[corners], asset.slot)
    solid = torch.linalg.cross(*(soup.points[:, 1:] - soup.points[:, :1]).unbind(1)).norm(dim=-1) > 1e-14
    if not bool(solid.all()):
        lines.append(f"{int((~solid).sum())} triangles without area are left out while painting")
    if not bool(solid.any()):
        raise InputError(f"mesh {name}: none of its triangles has an area")
    bare = _bare(asset, soup, fresh, lines)
    slots = _split_slots(facts, soup, bare)
    if len(slots) > MOST_SLOTS:
        raise InputError(f"mesh {name}: wears {len(slots)} materials; at most {MOST_SLOTS} are painted: join some")
    made = _unwrapped(asset, soup, bare & solid, slots)
    wraps = [[CLAMP, CLAMP] if slot["fresh"] else slot["wrap"] for slot in slots]
    drawn = soup.take(solid)
    lines += _turn(drawn)
    drawn = _cut(drawn, wraps, name)
    tiles = _tiles(len(slots))
    low, high = tiles[:, :2][drawn.slot][:, None], tiles[:, 2:][drawn.slot][:, None]
    lines += _sharing(drawn, slots)
    drawn.uv = low + drawn.uv * (high - low)
    mesh, atlas, tint = _welded(drawn)
    tinted = facts["kind"] in (".glb", ".gltf") and bool((asset.tint < 0.999).any())
    lines += _alpha_lines(slots)
    lines += ["vertex colours would darken the new base colours: no longer named, their bytes stay"] if tinted else []
    told = {"slots": slots, "parts": facts["parts"], "lines": lines, "tinted": tinted, "up": up}
    told |= {"centre": centre.tolist(), "scale": scale}
    start = _start(asset, slots, tiles, atlas, tint)
    alphas = {
        str(i): asset.pictures[f"base.{slot['of']}"][..., 3:].clone()
        for i, slot in enumerate(slots)
        if slot["alpha"] != "OPAQUE" and f"base.{slot['of']}" in asset.pictures and not slot["fresh"]
    }
    return OwnCanvas(mesh, atlas, start, tiles, alphas, made, told)


def _bare(asset: ForeignAsset, soup: _Soup, fresh: bool, lines: list[str]) -> Tensor:
    """[F] which triangles are to be unwrapped: all of a primitive, in an OBJ all of a material, or none of it."""
    bare = ~soup.uv.isfinite().all(-1).all(-1)
    if asset.facts["kind"] not in WORN:  # what is written of it has no coordinates but new ones
        return torch.ones_like(bare)
    if fresh:
        clear = torch.tensor([slot["alpha"] == "OPAQUE" or slot["texture"] is None for slot in asset.facts["slots"]])
        lines += [f"material {slot['name']!r}: keeps its coordinates, for its alpha lies at them"
                  for slot, kept in zip(asset.facts["slots"], (~clear).tolist(), strict=True) if kept]  # fmt: skip
        bare |= clear[asset.slot]
    group = asset.slot if asset.facts["kind"] == ".obj" else asset.part
    return torch.bincount(group, bare.double())[group] > 0


def _split_slots(facts: Json, soup: _Soup, bare: Tensor) -> list[Json]:
    """Slots by material and by whether their coordinates are the file's; `soup.slot` follows."""
    keys = 2 * soup.slot + bare
    used, soup.slot = torch.unique(keys, return_inverse=True)
    return [facts["slots"][key // 2] | {"of": key // 2, "fresh": bool(key % 2)} for key in used.tolist()]


def _unwrapped(asset: ForeignAsset, soup: _Soup, wanted: Tensor, slots: Sequence[Json]) -> dict[str, Tensor]:
    """New coordinates for triangles `wanted` [F], slot by slot; a primitive that stands in several places has one set.
    `soup.uv` has them afterwards; what comes back is by part, as the patcher needs it."""
    copies: dict[tuple[int, int], int] = {}
    first = torch.tensor(
        [copies.setdefault((part["mesh"], part.get("primitive", 0)), i) for i, part in enumerate(asset.facts["parts"])]
    )
    lead = first[asset.part] == asset.part
    for number, slot in enumerate(slots):
        rows = (wanted & lead & (soup.slot == number)).nonzero()[:, 0]
        if not (slot["fresh"] and len(rows)):
            continue
        keys, faces = torch.unique(soup.points[rows].reshape(-1, 3), dim=0, return_inverse=True)
        atlas = unwrap(keys.float(), faces.reshape(-1, 3), 1024)
        soup.uv[rows] = atlas.uv[atlas.faces]
    made = {}
    for i in sorted(set(first.tolist())):
        own = (asset.part == i).nonzero()[:, 0]
        if not any(slots[slot]["fresh"] for slot in soup.slot[own].unique().tolist()):
            continue
        made[str(i)] = torch.where(soup.uv[own].isfinite(), soup.uv[own], 0.0)
        for other in (first == i).nonzero()[:, 0].tolist():
            soup.uv[asset.part == other] = made[str(i)]
    return made


def _turn(soup: _Soup) -> list[str]:
    """Make all triangles of a part face one way."""
    _, faces = torch.unique(soup.points.reshape(-1, 3).float(), dim=0, return_inverse=True)
    places = torch.zeros(int(faces.max()) + 1, 3).index_copy(0, faces, soup.points.reshape(-1, 3).float())
    turn = turned_over(places, faces.reshape(-1, 3))
    if not bool(turn.any()):
        return []
    order = torch.where(turn[:, None], torch.tensor([0, 2, 1]), torch.tensor([0, 1, 2]))
    for key in ("points", "uv", "normals", "tint"):
        value = getattr(soup, key)
        setattr(soup, key, value.gather(1, order[..., None].expand_as(value)))
    soup.normals[turn] = -soup.normals[turn]
    return [f"{int(turn.sum())} of {len(turn)} triangles face the wrong way; turned over for painting, not in the file"]


def _cut(soup: _Soup, wraps: Sequence[Sequence[int]], name: str) -> _Soup:
    """Every triangle in the unit square: clamped, or cut along whole numbers and moved."""
    modes = torch.tensor(wraps)[soup.slot]  # [F, 2]
    soup.uv = torch.where(modes[:, None] == CLAMP, soup.uv.clamp(0, 1), soup.uv)
    base = soup.uv.amin(1).floor()
    over = (soup.uv.amax(1) > base + 1).any(-1)
    whole = soup.take(~over)
    whole.uv = _folded(whole.uv, base[~over], modes[~over])
    parts = [whole]
    pieces = 0
    for row in over.nonzero()[:, 0].tolist():
        rings = _cells(soup.uv[row].double().numpy(), MOST_CUT - pieces)
        pieces += sum(len(ring) - 2 for _, ring in rings)
        if pieces >= MOST_CUT:
            raise InputError(f"mesh {name}: its texture repeats too often to be painted; unwrap it anew: --fresh-uv")
        one = soup.take(torch.tensor([row]))
        for cell, ring in rings:
            weights = torch.from_numpy(np.stack([[ring[0], ring[i], ring[i + 1]] for i in range(1, len(ring) - 1)]))
            corners = [weights.to(value) @ value for value in (one.points, one.uv, one.normals, one.tint)]
            fan = _Soup(corners[0], corners[1], corners[2], corners[3], one.slot.expand(len(weights)))
            fan.uv = _folded(fan.uv, torch.tensor([cell]).float(), modes[row : row + 1]).clamp(0, 1)
            parts.append(fan)
    keys = ("points", "uv", "normals", "tint", "slot")
    made = _Soup(*(torch.cat([getattr(part, key) for part in parts]) for key in keys))
    solid = torch.linalg.cross(*(made.points[:, 1:] - made.points[:, :1]).unbind(1)).norm(dim=-1) > 1e-14
    return made.take(solid)


def _folded(uv: Tensor, cell: Tensor, modes: Tensor) -> Tensor:
    """[F, 3, 2] inside the unit square, of triangles that lie in the square at `cell` [F, 2]."""
    local = uv - cell[:, None]
    turned = (modes == MIRROR) & (cell.long() % 2 != 0)
    return torch.where(turned[:, None], 1 - local, local)


def _cells(uv: np.ndarray, most: int) -> list[tuple[tuple[int, int], np.ndarray]]:
    """A triangle [3, 2] cut along whole numbers: each square that it reaches, and its part there as weights [n, 3] of
    the three corners (Sutherland & Hodgman 1974)."""
    low, high = np.floor(uv.min(0)).astype(int), np.ceil(uv.max(0)).astype(int)
    if float(np.prod((high - low).astype(float))) > max(most, 1):
        return [((0, 0), np.zeros((most + 2, 3)))]
    strips = [(x, _between(np.eye(3), uv[:, 0], x)) for x in range(low[0], high[0])]
    rows = range(low[1], high[1])
    cells = [((x, y), _between(ring, uv[:, 1], y)) for x, ring in strips if len(ring) > 2 for y in rows]
    return [(cell, ring) for cell, ring in cells if len(ring) > 2]


def _between(ring: np.ndarray, axis: np.ndarray, low: int) -> np.ndarray:
    """The part of a polygon, weights [n, 3] of corners with coordinates `axis` [3], between `low` and `low + 1`."""
    for sign, bound in ((1.0, low), (-1.0, -(low + 1))):
        kept = []
        height = sign * (ring @ axis) - bound if len(ring) else np.zeros(0)
        for i in range(len(ring)):
            j = (i + 1) % len(ring)
            if height[i] >= 0:
                kept.append(ring[i])
            if (height[i] > 0 > height[j]) or (height[i] < 0 < height[j]):
                share = height[i] / (height[i] - height[j])
                kept.append(ring[i] + share * (ring[j] - ring[i]))
        ring = np.array(kept).reshape(-1, 3)
    return ring


def _tiles(count: int) -> Tensor:
    """[count, 4] of a square: all of it for one."""
    side = math.ceil(math.sqrt(count))
    margin = MARGIN / side if count > 1 else 0.0
    number = torch.arange(count)
    low = torch.stack([number % side, number // side], -1) / side
    return torch.cat([low + margin, low + 1 / side - margin], -1)


def _sharing(soup: _Soup, slots: Sequence[Json]) -> list[str]:
    """Texels that several places share, and whether they are mirrored: said, slot by slot."""
    lines = []
    for number, slot in enumerate(slots):
        uv = soup.uv[soup.slot == number]
        if slot["fresh"]:
            lines.append(f"material {slot['name']!r}: {len(uv)} triangles get texture coordinates, a set of their own")
            continue
        clip = torch.cat([2 * uv - 1, torch.zeros_like(uv[..., :1]), torch.ones_like(uv[..., :1])], -1).reshape(-1, 4)
        faces = torch.arange(len(clip)).reshape(-1, 3)
        # Of equal depths the first is kept: where the last one is another, several lie over one another.
        first, last = raster(clip, faces, (LOOK, LOOK)).triangle, raster(clip, faces.flip(0), (LOOK, LOOK)).triangle
        covered = first > 0
        shared = covered & (first != len(faces) + 1 - last)
        share = float(shared.sum()) / max(float(covered.sum()), 1)
        slot["shared"] = round(share, 4)
        if share > 0.002:
            e, d = (uv[:, 1:] - uv[:, :1]).unbind(1)
            sides = e[:, 0] * d[:, 1] - e[:, 1] * d[:, 0]
            mirrored = " (some of them mirrored)" if bool((sides > 0).any() and (sides < 0).any()) else ""
            slot["mirrored"] = bool(mirrored)
            lines.append(
                f"material {slot['name']!r}: {100 * share:.0f} % of its texels are shared by several places{mirrored}; "
                "they get one colour. --fresh-uv gives each place its own"
            )
    return lines


def _alpha_lines(slots: Sequence[Json]) -> list[str]:
    return [
        f"material {slot['name']!r}: is transparent ({slot['alpha']}); painted as opaque, its alpha stays in the file"
        for slot in slots
        if slot["alpha"] != "OPAQUE"
    ]


def _welded(soup: _Soup) -> tuple[Mesh, Atlas, Tensor]:
    """Corners of equal place and normal are one vertex; those of equal coordinates, too, one row of the atlas."""
    places = soup.points.reshape(-1, 3).float()
    bent = (soup.normals.reshape(-1, 3).nan_to_num(0.0) * 64).round()
    keys, vertex = torch.unique(torch.cat([places, bent], 1), dim=0, return_inverse=True)
    tint = soup.tint.reshape(-1, 3)
    rows = torch.cat([vertex[:, None].double(), soup.uv.reshape(-1, 2).double(), tint.double()], 1)
    corners, row = torch.unique(rows, dim=0, return_inverse=True)
    atlas = Atlas(corners[:, 1:3].float(), row.reshape(-1, 3), corners[:, 0].long())
    vertices, faces = keys[:, :3].contiguous(), vertex.reshape(-1, 3)
    mesh = Mesh(vertices, faces, torch.full_like(vertices, GRAY), vertex_normals(vertices, faces))
    return mesh, atlas, corners[:, 3:].float()


def _start(asset: ForeignAsset, slots: Sequence[Json], tiles: Tensor, atlas: Atlas, tint: Tensor) -> Tensor:
    """[START, START, 5] bytes of the material as the file has it, vertex colours included."""
    at = texels(atlas, START)
    uv, shade = at.read(atlas.uv, atlas.faces), at.read(tint, atlas.faces)
    middle = (tiles[:, None, :2] + tiles[:, None, 2:]) / 2 - uv
    which = middle.abs().amax(-1).argmin(0)
    made = torch.full((len(uv), 5), GRAY)
    for number, slot in enumerate(slots):
        rows = (which == number).nonzero()[:, 0]
        low, high = tiles[number, :2], tiles[number, 2:]
        own = (uv[rows] - low) / (high - low)
        of = torch.full_like(rows, slot["of"])
        rough = torch.tensor([slot["roughness"], slot["metallic"]]).expand(len(rows), 2)
        picture = asset.pictures.get(f"rough_metal.{slot['of']}")
        if not slot["fresh"]:
            made[rows, :3] = base_colours(asset, of, own, shade[rows])
            if picture is not None:
                rough = rough * texture(picture.float() / 255, own[None, None], boundary="wrap")[0, 0, :, 1:3]
        elif f"base.{slot['of']}" not in asset.pictures:
            made[rows, :3] = base_colours(asset, of, own, shade[rows])
        made[rows, 3:] = rough
    return (at.picture(made) * 255).round().byte()


def own_textures(canvas: OwnCanvas, made: Textures, slot: int, size: tuple[int, int]) -> Textures:
    """The material of one slot at its own size."""
    normal = None if made.normal is None else canvas.cropped(made.normal.cpu(), slot, size)
    base, rough, metal = (canvas.cropped(each.cpu(), slot, size) for each in (made.base, made.roughness, made.metallic))
    return Textures(base, rough, metal, normal)
