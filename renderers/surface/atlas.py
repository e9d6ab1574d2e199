# SPDX-License-Identifier: Apache-2.0
"""Texture coordinates without a package: charts of faces that look the same way, packed on shelves.

A face belongs to the axis direction (of six) that its smoothed normal is nearest to; connected faces of one direction
are a chart, projected along it. Small charts join a neighbour; one that folds over itself in projection is cut across
its depth. `uvunwrap` lays out a little more of the picture, and more evenly, where it is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.bounded import Unbounded, bounded
from dreamlab.core.errors import InputError
from dreamlab.core.files import Json

METHODS = ("auto", "own", "uvunwrap", "xatlas")
# As measured (docs/export.md): uvunwrap is as fast as ours with a fifth of the spread, xatlas slower than ours for less
# of the square; so it is taken by name, or where ours finds no room.
ORDER = ("uvunwrap", "own", "xatlas")
GUTTER = 2.0  # texels kept free around a chart; half of it, and again, when the charts are too many
SECONDS = 120.0  # of wall time that a package may take
AXES = torch.cat([torch.eye(3), -torch.eye(3)])  # the six directions that charts are seen from
SLANT = 0.2  # cosine between a face and its chart's direction, at least
SMALL, MERGES, CUTS = 24, 12, 12  # faces of a chart that looks for another; rounds of joining, and of cutting


class Atlas(NamedTuple):
    """Corners of the charts: a vertex on a seam has several."""

    uv: Tensor  # [U, 2] in [0, 1]; v grows downward
    faces: Tensor  # [F, 3] rows of `uv`
    source: Tensor  # [U] the vertex of each row


def methods() -> list[str]:
    """Those that can be used here, the best first."""
    return [name for name in ORDER if name == "own" or importlib.util.find_spec(name) is not None]


def unwrap(vertices: Tensor, faces: Tensor, size: int, method: str = "auto", gutter: float = GUTTER) -> Atlas:
    """An atlas for a texture of `size` texels a side; `auto` is the best that is installed."""
    if method not in METHODS:
        raise ValueError(f"unwrap: method {method!r} is not one of {', '.join(METHODS)}")
    if method != "auto" and method not in methods():
        raise ValueError(f"unwrap: {method} is not installed; use method 'own'")
    arguments = (vertices.detach().double().cpu(), faces.cpu(), size, gutter)
    for name in methods() if method == "auto" else [method]:
        try:
            made = {"own": _own, "uvunwrap": _apart(_uvunwrap), "xatlas": _apart(_xatlas)}[name](*arguments)
        except (Unbounded, InputError) as error:
            failure = error
            continue
        return Atlas(*(value.to(vertices.device) for value in made))
    raise failure


Unwrap = Callable[[Tensor, Tensor, int, float], Atlas]


def _apart(way: Unwrap) -> Unwrap:
    """In a process of its own, always: the packages' pools of threads would be dead in a later fork of this one, which
    then waits for them for ever; and xatlas is known to hang."""

    def made(vertices: Tensor, faces: Tensor, size: int, gutter: float) -> Atlas:
        def work() -> tuple[dict[str, Tensor], Json]:
            return way(vertices, faces, size, gutter)._asdict(), {}

        return Atlas(**bounded(work, way.__name__.strip("_"), SECONDS).tensors)

    return made


def _xatlas(vertices: Tensor, faces: Tensor, size: int, gutter: float) -> Atlas:
    import xatlas

    made = xatlas.Atlas()
    made.add_mesh(vertices.numpy().astype(np.float32), faces.numpy().astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.padding, pack.resolution, pack.bilinear = int(2 * gutter), size, True
    made.generate(xatlas.ChartOptions(), pack)
    source, corners, uv = made[0]
    uv = torch.from_numpy(np.array(uv, np.float32))
    uv[:, 1] = 1 - uv[:, 1]  # its v grows upward
    return Atlas(uv, torch.from_numpy(corners.astype(np.int64)), torch.from_numpy(source.astype(np.int64)))


def _uvunwrap(vertices: Tensor, faces: Tensor, size: int, gutter: float) -> Atlas:
    import uvunwrap

    mesh = uvunwrap.Mesh(vertices.numpy(), faces.numpy().astype(np.uint32))
    found = uvunwrap.generate([mesh], page_size=size, padding=int(2 * gutter)).meshes[0]
    if np.asarray(found.page).max(initial=0) > 0 or np.asarray(found.page).min(initial=0) < 0:
        raise InputError(f"unwrap: uvunwrap did not lay the surface on one page of {size} texels a side")
    uv = torch.from_numpy(np.array(found.uv, np.float32).reshape(-1, 2))
    uv[:, 1] = 1 - uv[:, 1]  # its v grows upward
    corners, source = (torch.from_numpy(np.array(each, np.int64)) for each in (found.indices, found.xref))
    return Atlas(uv, corners.reshape(-1, 3), source)


def _own(vertices: Tensor, faces: Tensor, size: int, gutter: float) -> Atlas:
    beside = _beside(faces)
    axis = _directions(vertices, faces, beside)
    flat = _project(vertices[faces], axis)  # [F, 3, 2]
    depth = (vertices[faces].mean(1) * AXES.to(vertices)[axis]).sum(-1)
    chart = _unfold(flat, depth, beside, _connected(axis, beside))
    corners, which = torch.unique(torch.stack([chart.repeat_interleave(3), faces.reshape(-1)], 1), dim=0,
                                  return_inverse=True)  # fmt: skip
    uv = torch.zeros(len(corners), 2, dtype=torch.float64)
    uv[which] = flat.reshape(-1, 2)
    uv = _pack(uv, corners[:, 0], size, gutter)
    return Atlas(uv.float(), which.reshape(-1, 3), corners[:, 1])


def _beside(faces: Tensor) -> Tensor:
    """[F, 3] the face across each edge, itself where there is none."""
    from cuda_ext.antialias import edge_neighbours

    other = edge_neighbours(faces).long()
    return torch.where(other >= 0, other // 3, torch.arange(len(faces))[:, None])


def _connected(label: Tensor, beside: Tensor) -> Tensor:
    """[F] numbers of the connected parts whose faces have one label."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = torch.arange(len(label))[:, None].expand(-1, 3)
    same = label[beside] == label[:, None]
    pairs = (rows[same].numpy(), beside[same].numpy())
    graph = coo_matrix((np.ones(len(pairs[0])), pairs), shape=(len(label), len(label)))
    return torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))


def _directions(vertices: Tensor, faces: Tensor, beside: Tensor) -> Tensor:
    """Axis direction 0..5 [F] of every face. Small charts join the neighbour that sees them best, if one does."""
    a, b, c = vertices[faces].unbind(1)
    own = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    smooth = torch.linalg.cross(b - a, c - a)
    for _ in range(3):  # borders of charts become smoother: a face follows its neighbours
        smooth = smooth + 0.5 * smooth[beside].sum(1)
    facing = own @ AXES.to(own).T  # [F, 6]
    toward = smooth @ AXES.to(own).T
    axis = torch.where(facing > SLANT, toward, -torch.inf).argmax(1)
    for _ in range(MERGES):
        chart = _connected(axis, beside)
        faces_of = torch.bincount(chart)[chart]
        next_axis, next_size = axis[beside], faces_of[beside]  # [F, 3]
        offer = facing.gather(1, next_axis).masked_fill(next_size <= faces_of[:, None], -torch.inf)
        best, which = offer.max(1)
        joins = (faces_of < SMALL) & (best > SLANT)
        if not bool(joins.any()):
            break
        axis = torch.where(joins, next_axis.gather(1, which[:, None])[:, 0], axis)
    return axis


def _project(corners: Tensor, axis: Tensor) -> Tensor:
    """[F, 3, 2]: the plane across each face's axis; seen from outside u runs right and v down."""
    right = torch.tensor([[0, 0, -1], [1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 0, 0]]).to(corners)
    down = torch.tensor([[0, -1, 0], [0, 0, 1], [0, -1, 0], [0, -1, 0], [0, 0, -1], [0, -1, 0]]).to(corners)
    return torch.stack([(corners * plane[axis][:, None]).sum(-1) for plane in (right, down)], -1)


def _unfold(flat: Tensor, depth: Tensor, beside: Tensor, chart: Tensor) -> Tensor:
    """Charts [F] that do not lie over themselves: one that does is cut in two across its depth [F], again and again,
    until it lies flat or is single faces."""
    suspect = torch.ones(int(chart.max()) + 1, dtype=torch.bool)
    for _ in range(CUTS):
        folded = _folded(flat, chart, suspect)
        if not bool(folded.any()):
            return chart
        middle = _spread(depth[:, None], chart).sum((1, 2)) / 2
        label = 2 * chart + (folded[chart] & (depth > middle[chart]))
        fresh = _connected(label, beside)
        suspect = torch.zeros(int(fresh.max()) + 1, dtype=torch.bool).scatter(0, fresh, folded[chart])
        chart = fresh
    single = _folded(flat, chart, suspect)[chart]
    fresh = torch.where(single, len(suspect) + torch.arange(len(chart)), chart)
    return torch.unique(fresh, return_inverse=True)[1]


def _spread(values: Tensor, chart: Tensor) -> Tensor:  # [F, C] -> [charts, C, 2]
    """Lowest and highest value of every chart."""
    count, index = int(chart.max()) + 1, chart[:, None].expand(-1, values.shape[1])
    empty = values.new_full((count, values.shape[1]), torch.inf)
    low = empty.scatter_reduce(0, index, values, "amin")
    return torch.stack([low, (-empty).scatter_reduce(0, index, values, "amax")], -1)


def _folded(flat: Tensor, chart: Tensor, suspect: Tensor) -> Tensor:
    """[charts] bool: of the suspect ones, those whose faces cover more area than the outline they draw."""
    from cuda_ext.raster import raster

    a, b, c = flat.unbind(1)
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2
    low, high = _spread(flat.amin(1), chart)[..., 0], _spread(flat.amax(1), chart)[..., 1]
    extent = (high - low).clamp(min=1e-9)
    local = 2 * (flat - low[chart][:, None]) / extent[chart][:, None] - 1
    order = chart.argsort()
    groups = order.split(torch.bincount(chart).tolist())
    sides, found = 128, torch.zeros(len(groups), dtype=torch.bool)
    for one in suspect.nonzero()[:, 0].tolist():
        rows = groups[one]
        if len(rows) < 4:
            continue
        corners = local[rows].reshape(-1, 2).float()
        clip = torch.cat([corners, torch.zeros_like(corners[:, :1]), torch.ones_like(corners[:, :1])], 1)
        seen = raster(clip, torch.arange(3 * len(rows)).reshape(-1, 3), (sides, sides))
        covered = float((seen.triangle > 0).sum()) / sides**2
        found[one] = float(area[rows].sum() / extent[one].prod()) > covered + 0.02 + 0.02 * covered
    return found


def _pack(uv: Tensor, chart: Tensor, size: int, gutter: float) -> Tensor:
    """All charts at one scale on shelves of the unit square, tallest first, as large as fits."""
    low, high = _spread(uv, chart).unbind(-1)
    extent = high - low
    count = len(extent)
    order = extent[:, 1].argsort(descending=True).tolist()
    sides = extent.tolist()

    def shelves(scale: float, gap: float) -> list[tuple[float, float]] | None:
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
    # Gutters alone must not take more than half of the texture.
    while count * (2 * gutter) ** 2 > size**2 / 2 and gutter > 1:
        gutter /= 2
    gap = 2 * gutter / size
    best = shelves(small, gap)
    if best is None:
        raise InputError(f"unwrap: {count} charts do not fit into {size} texels a side; use a larger texture or xatlas")
    for _ in range(24):
        middle = (small + large) / 2
        if (found := shelves(middle, gap)) is None:
            large = middle
        else:
            small, best = middle, found
    return (uv - low[chart]) * small + torch.tensor(best, dtype=uv.dtype)[chart] + gap / 2
