# SPDX-License-Identifier: Apache-2.0
"""A written file, read again by a parser that is not ours (trimesh), in a bounded child: what users will open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.bounded import Unbounded, bounded
from dreamlab.core.safemath import linear_to_srgb
from dreamlab.core.types import Mesh, Textures
from dreamlab.export.writers.axes import STANDING, lain
from renderers.surface.draw import vertex_normals

if TYPE_CHECKING:
    from trimesh.visual.material import PBRMaterial

READ = (".glb", ".gltf", ".obj", ".ply", ".stl")  # of those, the first that was written is the one looked at
GRAY = 0.8  # of a file without colours
ROUGH = 204  # of 255, of a material that says nothing
SECONDS = 120.0
_PICTURES = ("base", "roughness", "metallic", "normal", "occlusion")


def read_back(path: Path) -> Mesh:
    """The file's surface in the file's units; `Unbounded` in one line if another program cannot read it."""
    found = bounded(lambda: (_read(path), {}), f"reading {path.name} back", SECONDS).tensors
    vertices, faces = found["vertices"], found["faces"]
    if not len(faces):
        raise Unbounded(f"reading {path.name} back: it has no triangles")
    textures = None
    if "base" in found:
        pictures = [None if name not in found else found[name].float().div_(255) for name in _PICTURES]
        textures = Textures(*pictures)  # type: ignore[arg-type]
    normals = found.get("normals")
    if normals is None:
        normals = vertex_normals(vertices, faces)
    colours = found.get("colours", torch.full_like(vertices, GRAY))
    return Mesh(vertices, faces, colours, normals, found.get("uv"), found.get("tangents"), textures)


def _read(path: Path) -> dict[str, Tensor]:
    import trimesh

    loaded: Any = trimesh.load(path, process=False)
    mesh = loaded
    if isinstance(loaded, trimesh.Scene):
        # Beside it there may be levels of detail and a hull, which have fewer triangles.
        nodes = [loaded.graph[node] for node in loaded.graph.nodes_geometry]
        transform, name = max(nodes, key=lambda node: len(loaded.geometry[node[1]].faces))
        if not np.allclose(transform, np.eye(4)):
            raise ValueError("its surface is turned or moved by a node; ours never is")
        mesh = loaded.geometry[name]
    ours = lain if path.suffix.lower() in STANDING else torch.Tensor.clone
    found: dict[str, Tensor] = {
        "vertices": ours(torch.from_numpy(np.array(mesh.vertices, np.float32))),
        "faces": torch.from_numpy(np.array(mesh.faces, np.int64)),
        "normals": ours(torch.from_numpy(np.array(mesh.vertex_normals, np.float32))),
    }
    return found | _looks(mesh.visual, len(mesh.vertices), path.suffix.lower() in (".glb", ".gltf"))


def _looks(visual: Any, count: int, linear: bool) -> dict[str, Tensor]:
    """Texture coordinates and pictures, or the colours of vertices."""
    uv = getattr(visual, "uv", None)
    if uv is not None and getattr(visual, "material", None) is not None:
        flat = torch.from_numpy(np.array(uv, np.float32))
        pictures = _pictures(visual.material)
        if pictures:
            return {"uv": torch.stack([flat[:, 0], 1 - flat[:, 1]], 1)} | pictures  # its v grows upward
    own = dict(getattr(visual, "vertex_attributes", {})).get("color")
    if own is None and getattr(visual, "kind", None) == "vertex":
        own = visual.vertex_colors
    if own is None or len(own) != count:
        return {}
    top = np.iinfo(own.dtype).max if np.issubdtype(own.dtype, np.integer) else 1.0
    colours = torch.from_numpy(np.array(own[:, :3], np.float32) / np.float32(top))
    return {"colours": linear_to_srgb(colours) if linear else colours}


def _pictures(material: PBRMaterial) -> dict[str, Tensor]:
    """By their role in `Textures`, in bytes; a material that is not glTF's has a base colour alone."""
    base = getattr(material, "baseColorTexture", None)
    if base is None:
        base = getattr(material, "image", None)
    if base is None:
        return {}
    found = {"base": _bytes(base)}
    packed = getattr(material, "metallicRoughnessTexture", None)
    blank = torch.zeros_like(found["base"][..., :1])
    rough, metal = (blank + ROUGH, blank) if packed is None else _bytes(packed)[..., 1:3].split(1, -1)
    found |= {"roughness": rough, "metallic": metal}
    for name, picture in (("normal", "normalTexture"), ("occlusion", "occlusionTexture")):
        if getattr(material, picture, None) is not None:
            channels = 3 if name == "normal" else 1
            found[name] = _bytes(getattr(material, picture))[..., :channels]
    return found


def _bytes(picture: Any) -> Tensor:
    """[H, W, 3]"""
    return torch.from_numpy(np.array(picture.convert("RGB")))
