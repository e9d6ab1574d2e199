# SPDX-License-Identifier: Apache-2.0
"""A user's asset made into a canvas (`renderers.surface.canvas`). The asset itself is not touched: what is repaired is
repaired here, and said. What has no texture coordinates, or is asked to, is unwrapped afresh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cuda_ext.texture import texture
from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.foreign.asset import WORN, ForeignAsset, read_asset
from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.foreign.mesh_parser import GRAY
from renderers.surface.atlas import Atlas, unwrap
from renderers.surface.bake import texels
from renderers.surface.canvas import MOST_FILE, SUFFIX, OwnCanvas, canvas_from
from renderers.surface.coloured import base_colours
from renderers.surface.soup import CLAMP, Soup, cut, sharing, turned, welded

RADIUS = 0.9  # of the ball that it is moved and scaled into, as `files.read_mesh` does
MARGIN = 1 / 32  # of a tile, around it, when there are several
MOST_SLOTS = 64
START = 512  # texels a side of the square that the file's own pictures are kept at
UPRIGHT = {"y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)), "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0))}  # rows: the file's up axis


def read_canvas(path: Path) -> OwnCanvas:
    """A canvas file of a run, or a user's asset made into one."""
    if path.suffix == SUFFIX:
        return canvas_from(read_bytes(path, "canvas", MOST_FILE), f"canvas {path}")
    return canvas_of(read_asset(path, "mesh"), str(path))


def canvas_of(asset: ForeignAsset, name: str, fresh: bool = False, up: str = "y") -> OwnCanvas:
    """`fresh`: unwrapped anew even where the file has coordinates. `up`: the file's axis that points up."""
    facts, lines = asset.facts, list(asset.facts["notes"])
    where = asset.points @ torch.tensor(UPRIGHT[up], dtype=torch.float64).T
    centre = (where.amin(0) + where.amax(0)) / 2
    scale = RADIUS / float((where - centre).norm(dim=-1).max())
    place = ((where - centre) * scale).float().double()
    corners = asset.faces
    soup = Soup(place[corners], asset.uv[corners], asset.normals[corners], asset.tint[corners], asset.slot)
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
    lines += turned(drawn)
    drawn = cut(drawn, wraps, name)
    tiles = _tiles(len(slots))
    low, high = tiles[:, :2][drawn.slot][:, None], tiles[:, 2:][drawn.slot][:, None]
    lines += sharing(drawn, slots)
    drawn.uv = low + drawn.uv * (high - low)
    mesh, atlas, tint = welded(drawn)
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


def _bare(asset: ForeignAsset, soup: Soup, fresh: bool, lines: list[str]) -> Tensor:
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


def _split_slots(facts: Json, soup: Soup, bare: Tensor) -> list[Json]:
    """Slots by material and by whether their coordinates are the file's; `soup.slot` follows."""
    keys = 2 * soup.slot + bare
    used, soup.slot = torch.unique(keys, return_inverse=True)
    return [facts["slots"][key // 2] | {"of": key // 2, "fresh": bool(key % 2)} for key in used.tolist()]


def _unwrapped(asset: ForeignAsset, soup: Soup, wanted: Tensor, slots: Sequence[Json]) -> dict[str, Tensor]:
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


def _tiles(count: int) -> Tensor:
    """[count, 4] of a square: all of it for one."""
    side = math.ceil(math.sqrt(count))
    margin = MARGIN / side if count > 1 else 0.0
    number = torch.arange(count)
    low = torch.stack([number % side, number // side], -1) / side
    return torch.cat([low + margin, low + 1 / side - margin], -1)


def _alpha_lines(slots: Sequence[Json]) -> list[str]:
    return [
        f"material {slot['name']!r}: is transparent ({slot['alpha']}); painted as opaque, its alpha stays in the file"
        for slot in slots
        if slot["alpha"] != "OPAQUE"
    ]


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
