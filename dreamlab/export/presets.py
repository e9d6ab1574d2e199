# SPDX-License-Identifier: Apache-2.0
"""What the programs that assets go to want otherwise than everybody: names, further meshes in the file, pictures packed
in another way. A preset changes what writers are given, may stand in for one, and leaves files beside theirs.

blender  a .blend file beside the others, where Blender is found; an OBJ whose pictures are right in its importer.
unity    levels of detail in one file as Name_LOD0, Name_LOD1, ..., of which Unity makes an LOD group; for HDRP the mask
         map: metallic, occlusion, detail and smoothness in red, green, blue and alpha.
unreal   the mesh as SM_Name (SK_Name where it moves by a skin), a convex hull UCX_SM_Name_01 to collide with, and loose
         pictures whose normals are DirectX's; those inside a GLB stay OpenGL's, which its importer expects.
godot    a convex hull to collide with (-convcolonly: -convcol would take the engine's own pieces, a hundred of them in
         3.2), and a suffix for clips that repeat (-loop).
web      at most WEB_FACES triangles, textures of at most WEB_TEXELS; packed further by programs that are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from dreamlab.core.programs import lacking_blender
from dreamlab.core.rotation import matrix
from dreamlab.core.types import Skin, Track
from dreamlab.export.formats import WRITERS
from dreamlab.export.glb import gltf_of
from dreamlab.export.hull import hull_of
from dreamlab.export.levels import coarser_file, level_files, thinned
from dreamlab.export.painted import painted
from dreamlab.export.png import png_bytes
from dreamlab.export.product import Companion, Files, Product
from dreamlab.export.writers.blender import through_blender
from dreamlab.export.writers.maps import maps, open_sky
from dreamlab.export.writers.obj import obj
from dreamlab.export.writers.packed import packed_files

WEB_FACES, WEB_TEXELS = 10_000, 512
Writer = Callable[[Product], Files]


def _same(made: Product) -> Product:
    return made


@dataclass(frozen=True)
class Preset:
    """Wishes of one program."""

    adapt: Callable[[Product], Product] = _same
    beside: Writer = level_files  # files that belong to no format; of the product as it is
    writers: Mapping[str, Writer] = field(default_factory=dict)  # instead of the table's; of the product as it is


def files_of(kind: str, made: Product, preset: str) -> Files:
    """The files of a format."""
    own = PRESETS[preset]
    return own.writers[kind](made) if kind in own.writers else WRITERS[kind].write(own.adapt(made))


def _blender(made: Product) -> Files:
    return {**level_files(made), **({} if lacking_blender() else through_blender(made, "blend"))}


def _unity(made: Product) -> Product:
    levels = tuple(Companion(f"{made.name}_LOD{i}", mesh) for i, mesh in enumerate(made.levels, 1))
    return replace(made, name=f"{made.name}_LOD0" if levels else made.name, parts=levels)


def _unity_maps(made: Product) -> Files:
    made = painted(made)
    textures = made.mesh.textures
    assert textures is not None
    detail = torch.zeros_like(textures.roughness)
    mask = torch.cat([textures.metallic, open_sky(textures), detail, 1 - textures.roughness], -1)
    return {**maps(made), f"T_{made.name}_MASK.png": png_bytes(mask, made.origin)}


def _stem(made: Product) -> str:
    return made.name.replace("-", "_")


def _unreal_named(made: Product) -> Product:
    return replace(made, name=f"{'SK' if isinstance(made.motion, Skin) else 'SM'}_{_stem(made)}")


def _unreal(made: Product) -> Product:
    """A hull that stands still is no help to what moves."""
    named = _unreal_named(made)
    if made.motion is not None:
        return named
    return replace(named, parts=(Companion(f"UCX_{named.name}_01", hull_of(made.mesh), solid=True),))


def _unreal_maps(made: Product) -> Files:
    return maps(replace(made, name=_stem(made)), downward=True)


def _unreal_beside(made: Product) -> Files:
    return {**level_files(_unreal_named(made)), **_unreal_maps(made)}


def _godot(made: Product) -> Product:
    """The engine switches colours of vertices off, so they are painted."""
    made = painted(made)
    if made.motion is None:
        hull = Companion(f"{made.name}-convcolonly", hull_of(made.mesh), solid=True)
        return replace(made, parts=(*made.parts, hull))
    return replace(made, clip=f"{made.clip}-loop") if _repeats(made.motion) else made


def _repeats(motion: Skin | Track) -> bool:
    """Whether a clip ends as it begins."""
    ways = (motion.points,) if isinstance(motion, Track) else (motion.shift, matrix(motion.turn))
    return all(torch.allclose(way[0], way[-1], atol=1e-3) for way in ways)


def _web(made: Product) -> Product:
    return thinned(coarser_file(made, WEB_FACES), WEB_TEXELS)


def _web_packed(made: Product) -> Files:
    return packed_files(gltf_of(_web(made)).glb())


PRESETS: Mapping[str, Preset] = {
    "none": Preset(),
    "blender": Preset(beside=_blender, writers={"obj": partial(obj, bump=True, decoded=True)}),
    "unity": Preset(_unity, _unity_maps, {"maps": maps, "obj": partial(obj, bump=True)}),
    "unreal": Preset(_unreal, _unreal_beside, {"maps": _unreal_maps}),
    "godot": Preset(_godot, writers={"obj": partial(obj, bump=True)}),
    "web": Preset(_web, _web_packed),
}
