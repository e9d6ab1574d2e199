# SPDX-License-Identifier: Apache-2.0
"""A user's mesh or point cloud as arrays, by trimesh; runs in the child of `apart`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.foreign.headers import Refused, check_header, stands

if TYPE_CHECKING:
    from trimesh.resolvers import Resolver

MOST_FILE = 256 << 20
MOST_BESIDE = 64 << 20  # a material or a texture
GRAY = 0.7  # of a part without colours
FAR, NEAR = 1e6, 1e-6  # largest coordinate and smallest extent; float32 squares of areas stay finite
OFF_CENTRE = 1e4  # times its extent: further from the origin, float32 loses the shape
Part = tuple[
    np.ndarray, np.ndarray, tuple[np.ndarray, bool] | None
]  # vertices, corners, colours and if they are linear


class Beside:
    """Materials and textures of a mesh: files of its folder, read as carefully. Parsers go on without what is missing,
    so what must not be read is kept for the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.refused = folder, ""

    def get(self, key: str) -> bytes:
        path = self.folder / key.strip()
        inside = path.resolve().is_relative_to(self.folder.resolve())
        if not inside or not path.exists():
            raise FileNotFoundError(key)
        try:
            return read_bytes(path, "its file", MOST_BESIDE)
        except InputError as error:
            self.refused = self.refused or str(error)
            raise FileNotFoundError(key) from None

    __getitem__ = get


def parse(path: Path) -> dict[str, np.ndarray]:
    """`vertices` [V, 3], `faces` [F, 3] (none: a cloud), `colours` [V, 3] (absent: the file has none) and which of them
    are in linear light [V], not sRGB."""
    import io

    import trimesh

    data = read_bytes(path, "it", MOST_FILE)
    check_header(path, data)
    kind, beside = path.suffix.lower().removeprefix("."), Beside(path.parent)
    try:
        loaded = trimesh.load(io.BytesIO(data), file_type=kind, resolver=cast("Resolver", beside), process=False)
        parts = [_part(transform, each, kind == "glb") for transform, each in _placed(loaded)]
    except MemoryError:
        raise
    except Exception as error:  # third-party parsers raise anything on damaged files; the user gets one line
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise Refused(f"cannot be read as a .{kind} file, so it is damaged or of another format ({reason})") from None
    if beside.refused:
        raise Refused(beside.refused)
    if any(len(faces) for _, faces, _ in parts):
        parts = [part for part in parts if len(part[1])]
    if not sum(len(vertices) for vertices, _, _ in parts):
        raise Refused("holds neither triangles nor points")
    for vertices, faces, _ in parts:
        check_triangles(vertices, faces)
    starts = np.cumsum([0, *(len(vertices) for vertices, _, _ in parts)])
    vertices = np.concatenate([vertices for vertices, _, _ in parts])
    if stands(path.suffix.lower(), data):
        vertices = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], 1)
    check_size(vertices)
    found = {"vertices": vertices}
    found["faces"] = np.concatenate([faces + start for (_, faces, _), start in zip(parts, starts, strict=False)])
    if any(colours is not None for _, _, colours in parts):
        made = [(np.full_like(each, GRAY), False) if colours is None else colours for each, _, colours in parts]
        found["colours"] = np.concatenate([colours for colours, _ in made]).astype(np.float32)
        found["linear"] = np.concatenate([np.full(len(colours), linear) for colours, linear in made])
    return found


def _placed(loaded: Any) -> list[tuple[np.ndarray, Any]]:
    """Every mesh and cloud of a file with its 4 x 4 transform; joining them would lose the colours beside materials."""
    import trimesh

    found = [(np.eye(4), loaded)]
    if isinstance(loaded, trimesh.Scene):
        nodes = [loaded.graph[node] for node in loaded.graph.nodes_geometry]
        found = [(transform, loaded.geometry[name]) for transform, name in nodes]
    return [(transform, each) for transform, each in found if isinstance(each, (trimesh.Trimesh, trimesh.PointCloud))]


def _part(transform: np.ndarray, mesh: Any, linear: bool) -> Part:
    """In the file's world; a mirror turns triangles over."""
    with np.errstate(all="ignore"):  # what overflows is found below
        vertices = np.asarray(mesh.vertices, np.float64).reshape(-1, 3) @ transform[:3, :3].T + transform[:3, 3]
    faces = np.array(getattr(mesh, "faces", np.zeros((0, 3))), np.int64).reshape(-1, 3)
    if np.linalg.det(transform[:3, :3]) < 0:
        faces = np.ascontiguousarray(faces[:, ::-1])
    return vertices, faces, _colours(mesh.visual, len(vertices), linear)


def _colours(visual: Any, count: int, linear: bool) -> tuple[np.ndarray, bool] | None:
    """[count, 3] of a file's vertices, and whether they are linear. glTF keeps colours of vertices in linear light
    (3.9.2), beside a material; its textures are sRGB like everybody's."""
    own = dict(getattr(visual, "vertex_attributes", {})).get("color")
    pictured = getattr(getattr(visual, "material", None), "baseColorTexture", None) is not None
    if own is not None and len(own) == count and not pictured:
        top = np.iinfo(own.dtype).max if np.issubdtype(own.dtype, np.integer) else 1.0
        return np.array(own[:, :3], np.float32) / np.float32(top), linear
    plain = visual.to_color() if hasattr(visual, "to_color") else visual
    if getattr(plain, "kind", None) not in ("vertex", "face") or len(plain.vertex_colors) != count:
        return None
    return np.array(plain.vertex_colors[:, :3], np.float32) / np.float32(255), linear and plain is visual


def check_triangles(vertices: np.ndarray, faces: np.ndarray) -> None:
    if len(faces) and not len(vertices):
        raise Refused("has triangles and no corners")
    for i in np.flatnonzero(((faces < 0) | (faces >= len(vertices))).any(-1))[:1]:
        raise Refused(f"its triangle {i} names corner {faces[i].max()}, and there are {len(vertices)}: damaged")
    for i in np.flatnonzero(~np.isfinite(vertices).all(-1))[:1]:
        raise Refused(f"its point {i} is not finite ({', '.join(f'{value:g}' for value in vertices[i])})")


def check_size(vertices: np.ndarray) -> None:
    """Within what float32 can hold the shape of."""
    far, extent = float(np.abs(vertices).max()), float(np.ptp(vertices, axis=0).max())
    if far > FAR:
        raise Refused(f"has coordinates up to {far:.3g}; scale or move it: at most {FAR:g} are read")
    if extent == 0:
        raise Refused("has all its points in one place")
    if extent < NEAR:
        raise Refused(f"is {extent:.3g} large; scale it up: at least {NEAR:g} is read")
    if far > OFF_CENTRE * extent:
        raise Refused(f"is {extent:.3g} large and {far:.3g} away from the origin; move it there")
