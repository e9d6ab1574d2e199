# SPDX-License-Identifier: Apache-2.0
"""Meshes of a USD file as arrays, by Pixar's own library where it is installed (`usd-core`); runs in the child of
`apart`. A layer that brings others in is refused before it is composed: they could lie anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamlab.core.foreign.headers import MOST_BYTES, Refused

SUFFIXES = (".usd", ".usda", ".usdc", ".usdz")
LACKING = "is read with Pixar's library, which is not installed: pip install usd-core"


class UsdMesh(NamedTuple):
    """In metres, +Y up."""

    points: np.ndarray  # [V, 3] a corner of a triangle each
    uv: np.ndarray  # [V, 2] v grows downward; NaN: none
    tint: np.ndarray  # [V, 3] linear


def read_usd(path: Path) -> list[UsdMesh]:
    """All that the stage shows at its start."""
    try:
        from pxr import Sdf, Tf, Usd, UsdGeom
    except ImportError:
        raise Refused(LACKING) from None
    try:
        layer = Sdf.Layer.FindOrOpen(str(path))
        if layer is None:
            raise Refused("is no USD layer that can be read")
        if others := list(layer.GetCompositionAssetDependencies()):
            raise Refused(f"brings in {others[0][:80]!r}; flatten it into one file first: usdcat --flatten")
        stage = Usd.Stage.Open(layer)
        meshes = [UsdGeom.Mesh(prim) for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
        frame = np.eye(3)
        if UsdGeom.GetStageUpAxis(stage) == UsdGeom.Tokens.z:
            frame = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        frame = frame * UsdGeom.GetStageMetersPerUnit(stage)
        shown = [each for each in meshes if each.ComputeVisibility() != UsdGeom.Tokens.invisible]
        return [_mesh(each, UsdGeom, frame) for each in shown]
    except Tf.ErrorException as error:
        raise Refused(f"is no USD that can be read ({' '.join(str(error).split())[:120]})") from None


def _mesh(mesh: Any, kit: Any, frame: np.ndarray) -> UsdMesh:
    points = np.array(mesh.GetPointsAttr().Get() or [], np.float64).reshape(-1, 3)
    counts = np.array(mesh.GetFaceVertexCountsAttr().Get() or [], np.int64)
    index = np.array(mesh.GetFaceVertexIndicesAttr().Get() or [], np.int64)
    if (counts < 0).any() or counts.sum() != len(index) or len(index) * 72 > MOST_BYTES:
        raise Refused(f"its mesh {mesh.GetPath()} has {len(index)} corners for faces of {counts.sum()}")
    if len(index) and (index.min() < 0 or index.max() >= len(points)):
        raise Refused(f"its mesh {mesh.GetPath()} names corner {index.max()}, and there are {len(points)}: damaged")
    place = np.array(kit.Xformable(mesh).ComputeLocalToWorldTransform(0)).T  # USD's matrices act on rows
    rows = _fans(counts)
    turned = mesh.GetOrientationAttr().Get() == kit.Tokens.leftHanded
    if turned ^ bool(np.linalg.det(place[:3, :3]) < 0):
        rows = rows.reshape(-1, 3)[:, ::-1].reshape(-1)
    world = (points @ place[:3, :3].T + place[:3, 3]) @ frame.T
    api = kit.PrimvarsAPI(mesh)
    uv = _values(api.GetPrimvar("st"), rows, index, counts, 2)
    tint = _values(api.GetPrimvar("displayColor"), rows, index, counts, 3)
    across = np.full((len(rows), 2), np.nan) if uv is None else uv * [1, -1] + [0, 1]
    return UsdMesh(world[index[rows]], across, np.ones((len(rows), 3)) if tint is None else tint)


def _fans(counts: np.ndarray) -> np.ndarray:
    """[3 F] places in the list of corners, three by three, of faces cut into fans."""
    starts = np.cumsum(counts) - counts
    many = np.maximum(counts - 2, 0)
    first = np.repeat(starts, many)
    step = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    return np.stack([first, first + step + 1, first + step + 2], 1).reshape(-1)


def _values(primvar: Any, rows: np.ndarray, index: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray | None:
    """[3 F, width] of a primvar at triangles' corners, however it is spread."""
    if not primvar or not primvar.HasValue():
        return None
    values = np.array(primvar.ComputeFlattened(), np.float64).reshape(-1, width)
    where = {
        "constant": np.zeros(len(rows), np.int64),
        "uniform": np.repeat(np.arange(len(counts)), counts)[rows],
        "vertex": index[rows],
        "varying": index[rows],
        "faceVarying": rows,
    }.get(str(primvar.GetInterpolation()))
    if where is None or (len(where) and where.max() >= len(values)):
        return None
    return values[where]
