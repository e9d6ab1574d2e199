# SPDX-License-Identifier: Apache-2.0
"""Texture coordinates without a package: charts of faces that look the same way, packed on shelves.

A face belongs to the axis direction (of six) that its smoothed normal is nearest to; connected faces of one direction
are a chart, projected along it. A chart that folds over itself in projection is cut into its faces. `xatlas` does
better when installed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.errors import InputError

METHODS = ("auto", "own", "xatlas")
GUTTER = 2.0  # texels kept free around a chart


class Atlas(NamedTuple):
    """Corners of the charts: a vertex on a seam has several."""

    uv: Tensor  # [U, 2] in [0, 1]; v grows downward
    faces: Tensor  # [F, 3] rows of `uv`
    source: Tensor  # [U] the vertex of each row


def unwrap(vertices: Tensor, faces: Tensor, size: int, method: str = "auto") -> Atlas:
    """An atlas for a texture of `size` texels a side. `auto` is xatlas when it is installed."""
    if method not in METHODS:
        raise ValueError(f"unwrap: method {method!r} is not one of {', '.join(METHODS)}")
    if method != "own":
        try:
            import xatlas
        except ImportError:
            if method == "xatlas":
                raise ValueError("unwrap: xatlas is not installed; use method 'own'") from None
        else:
            return _xatlas(xatlas, vertices, faces, size)
    return _own(vertices.detach().double().cpu(), faces.cpu(), size)


def _xatlas(package: object, vertices: Tensor, faces: Tensor, size: int) -> Atlas:
    made = package.Atlas()  # type: ignore[attr-defined]
    made.add_mesh(vertices.detach().cpu().numpy().astype(np.float32), faces.cpu().numpy().astype(np.uint32))
    pack = package.PackOptions()  # type: ignore[attr-defined]
    pack.padding, pack.resolution, pack.bilinear = int(2 * GUTTER), size, True
    made.generate(package.ChartOptions(), pack)  # type: ignore[attr-defined]
    source, corners, uv = made[0]
    uv = torch.from_numpy(np.array(uv, np.float32))
    uv[:, 1] = 1 - uv[:, 1]  # its v grows upward
    found = (uv, torch.from_numpy(corners.astype(np.int64)), torch.from_numpy(source.astype(np.int64)))
    return Atlas(*(value.to(vertices.device) for value in found))


def _own(vertices: Tensor, faces: Tensor, size: int) -> Atlas:
    chart, axis = _charts(vertices, faces)
    flat = _project(vertices[faces], axis)  # [F, 3, 2]
    chart = _unfold(flat, chart)
    corners, which = torch.unique(torch.stack([chart.repeat_interleave(3), faces.reshape(-1)], 1), dim=0,
                                  return_inverse=True)  # fmt: skip
    uv = torch.zeros(len(corners), 2, dtype=torch.float64)
    uv[which] = flat.reshape(-1, 2)
    uv = _pack(uv, corners[:, 0], size)
    return Atlas(uv.float(), which.reshape(-1, 3), corners[:, 1])


def _charts(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Chart [F] and axis direction 0..5 [F] of every face: connected faces of one direction."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    from cuda_ext.antialias import edge_neighbours

    a, b, c = vertices[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    other = edge_neighbours(faces).long()
    beside = torch.where(other >= 0, other // 3, torch.arange(len(faces))[:, None])
    for _ in range(3):  # borders of charts become smoother: a face follows its neighbours
        normal = normal + 0.5 * normal[beside].sum(1)
    axis = torch.cat([normal, -normal], 1).argmax(1)
    rows = torch.arange(len(faces))[:, None].expand(-1, 3)
    same = axis[beside] == axis[:, None]
    pairs = (rows[same].numpy(), beside[same].numpy())
    graph = coo_matrix((np.ones(len(pairs[0])), pairs), shape=(len(faces), len(faces)))
    return torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64)), axis


def _project(corners: Tensor, axis: Tensor) -> Tensor:
    """[F, 3, 2]: the plane across each face's axis; seen from outside u runs right and v down."""
    right = torch.tensor([[0, 0, -1], [1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 0, 0]]).to(corners)
    down = torch.tensor([[0, -1, 0], [0, 0, 1], [0, -1, 0], [0, -1, 0], [0, 0, -1], [0, -1, 0]]).to(corners)
    return torch.stack([(corners * plane[axis][:, None]).sum(-1) for plane in (right, down)], -1)


def _unfold(flat: Tensor, chart: Tensor) -> Tensor:
    """Charts whose faces turn over, or cover more area than the outline they draw, fall into single faces."""
    from cuda_ext.raster import raster

    a, b, c = flat.unbind(1)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    count = int(chart.max()) + 1
    turned = torch.zeros(count).index_add(0, chart, (area >= 0).float()) > 0  # v down: a face seen from outside is < 0
    low = torch.full((count, 2), torch.inf, dtype=flat.dtype).scatter_reduce(
        0, chart[:, None].expand(-1, 2), flat.amin(1), "amin"
    )
    high = torch.full((count, 2), -torch.inf, dtype=flat.dtype).scatter_reduce(
        0, chart[:, None].expand(-1, 2), flat.amax(1), "amax"
    )
    sides = 128
    local = 2 * (flat - low[chart][:, None]) / (high - low)[chart].clamp(min=1e-9)[:, None] - 1
    for one in range(count):
        rows = (chart == one).nonzero()[:, 0]
        if turned[one] or len(rows) < 8:
            continue
        corners = local[rows].reshape(-1, 2).float()
        clip = torch.cat([corners, torch.zeros_like(corners[:, :1]), torch.ones_like(corners[:, :1])], 1)
        seen = raster(clip, torch.arange(3 * len(rows)).reshape(-1, 3), (sides, sides))
        covered = float((seen.triangle > 0).sum()) / sides**2
        extent = (high - low)[one].clamp(min=1e-9)
        turned[one] = float(area[rows].abs().sum() / 2 / extent.prod()) > covered + 0.02 + 0.02 * covered
    single = turned[chart]
    fresh = torch.where(single, count + torch.arange(len(chart)), chart)
    return torch.unique(fresh, return_inverse=True)[1]


def _pack(uv: Tensor, chart: Tensor, size: int) -> Tensor:
    """All charts at one scale on shelves of the unit square, tallest first, as large as fits."""
    count = int(chart.max()) + 1
    index = chart[:, None].expand(-1, 2)
    low = torch.full((count, 2), torch.inf, dtype=uv.dtype).scatter_reduce(0, index, uv, "amin")
    extent = torch.full((count, 2), -torch.inf, dtype=uv.dtype).scatter_reduce(0, index, uv, "amax") - low
    order = extent[:, 1].argsort(descending=True).tolist()
    sides = extent.tolist()
    gap = 2 * GUTTER / size

    def shelves(scale: float) -> list[tuple[float, float]] | None:
        places: list[tuple[float, float]] = [(0.0, 0.0)] * count
        x = y = shelf = 0.0
        for one in order:
            width, height = sides[one][0] * scale + gap, sides[one][1] * scale + gap
            if x + width > 1:
                x, y, shelf = 0.0, y + shelf, 0.0
            if width > 1 or y + height > 1:
                return None
            places[one] = (x, y)
            x, shelf = x + width, max(shelf, height)
        return places

    small, large = 0.0, 1 / max(float(extent.max()), 1e-9)
    best = shelves(small)
    if best is None:
        raise InputError(f"unwrap: {count} charts do not fit into {size} texels a side; use a larger texture or xatlas")
    for _ in range(24):
        middle = (small + large) / 2
        if (found := shelves(middle)) is None:
            large = middle
        else:
            small, best = middle, found
    return (uv - low[chart]) * small + torch.tensor(best, dtype=uv.dtype)[chart] + gap / 2


def tangents(vertices: Tensor, normals: Tensor, uv: Tensor, faces: Tensor) -> Tensor:
    """[V, 4] glTF tangents: along growing u, at right angles to the normal; w is the side of the bitangent, which runs
    against v: up in the picture."""
    a, b, c = vertices[faces].unbind(1)
    ta, tb, tc = uv[faces].unbind(1)
    (e1, e2), (d1, d2) = (b - a, c - a), (tb - ta, tc - ta)
    det = d1[:, :1] * d2[:, 1:] - d1[:, 1:] * d2[:, :1]
    sign = torch.where(det >= 0, 1.0, -1.0).to(det)
    along_u, along_v = (e1 * d2[:, 1:] - e2 * d1[:, 1:]) * sign, (e2 * d1[:, :1] - e1 * d2[:, :1]) * sign
    rows = faces.T.reshape(-1)
    u = torch.zeros_like(vertices).index_add(0, rows, along_u.repeat(3, 1))
    v = torch.zeros_like(vertices).index_add(0, rows, along_v.repeat(3, 1))
    flat = u - normals * (normals * u).sum(-1, keepdim=True)
    bare = flat.norm(dim=-1, keepdim=True) < 1e-12  # no direction of its own: any at right angles will do
    spare = torch.linalg.cross(normals, torch.eye(3).to(normals)[normals.abs().argmin(-1)])
    unit = torch.nn.functional.normalize(torch.where(bare, spare, flat), dim=-1)
    side = (torch.linalg.cross(normals, unit) * -v).sum(-1, keepdim=True)
    return torch.cat([unit, torch.where(side >= 0, 1.0, -1.0).to(side)], -1)
