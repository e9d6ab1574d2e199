# SPDX-License-Identifier: Apache-2.0
"""Fewer triangles, and better ones: quadric decimation leaves slivers, which turning edges and sliding vertices along
the surface mends.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cuda_ext.antialias import edge_neighbours
from dreamlab.core.types import Mesh
from renderers.surface.clean import fewer_faces, used
from renderers.surface.draw import directed_edges, vertex_normals
from renderers.surface.finish.health import edges_of
from renderers.surface.finish.repair import parted, unpinched, without_doubles

SPARE, LEAST = 4, 2000  # of a surface's triangles one in so many is kept, and that many anyway
ROUNDS = 2  # of turning and sliding
FLAT = 0.9  # cosine between two faces above which their common edge may be turned: a crease stays
GAIN = 0.02  # of the worse triangle's shape, at least
SLIDE = 0.5  # share of the way to the middle of its neighbours that a vertex goes, across its normal


def decimated(mesh: Mesh, count: int) -> Mesh:
    """At most `count` triangles of good shape, normals of their own."""
    made = fewer_faces(mesh, count)
    # Collapses across a thin place leave two triangles back to back.
    clear = used(replace(made, faces=without_doubles(made.faces)))
    made = unpinched(clear)
    thin = bool((edges_of(made.faces)[1] != 2).any()) and not bool((edges_of(clear.faces)[1] % 2).any())
    if thin:  # a shell's two sides met in more places than could be cut out
        made = parted(clear)
    vertices, faces = relaxed(made.vertices, made.faces)
    made = replace(made, vertices=vertices, faces=faces)
    made = parted(made) if thin else made  # turning an edge may make one that is there already
    return replace(made, normals=vertex_normals(made.vertices, made.faces))


def relaxed(vertices: Tensor, faces: Tensor, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """The same surface, closely, with triangles nearer to equilateral."""
    for _ in range(rounds):
        faces = turned(vertices, faces)
        vertices = slid(vertices, faces)
    return vertices, turned(vertices, faces)


def shape(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """[N] 1 for an equilateral triangle, 0 for one without area: 4 sqrt(3) area / sum of squared sides."""
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    sides = (b - a).square().sum(-1) + (c - b).square().sum(-1) + (a - c).square().sum(-1)
    return 2 * 3**0.5 * area / sides.clamp(min=1e-30)


def turned(vertices: Tensor, faces: Tensor) -> Tensor:
    """Edges of nearly flat pairs of triangles turned where the worse of the two becomes better: as many as touch no
    common triangle, the best first."""
    half = edge_neighbours(faces).long().flatten()
    edge = (half > torch.arange(len(half))).nonzero()[:, 0]  # each inner edge once
    here, there = edge // 3, half[edge] // 3
    flat = faces.flatten()
    c, d = flat[edge], flat[half[edge]]
    a, b = flat[3 * here + (edge + 1) % 3], flat[3 * here + (edge + 2) % 3]
    pa, pb, pc, pd = (vertices[row] for row in (a, b, c, d))
    old = torch.minimum(shape(pa, pb, pc), shape(pb, pa, pd))
    new = torch.minimum(shape(pa, pd, pc), shape(pd, pb, pc))
    n1, n2 = normalize(_normal(pa, pb, pc), dim=-1), normalize(_normal(pb, pa, pd), dim=-1)
    m1, m2 = normalize(_normal(pa, pd, pc), dim=-1), normalize(_normal(pd, pb, pc), dim=-1)
    mean = normalize(n1 + n2, dim=-1)
    level = ((n1 * n2).sum(-1) > FLAT) & ((m1 * mean).sum(-1) > FLAT) & ((m2 * mean).sum(-1) > FLAT)
    # An edge between two vertices that have one would have four triangles, or close a pocket.
    known = torch.unique(_key(*directed_edges(faces).unbind(1)))
    wanted = _key(c, d)
    place = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    good = level & (new > old + GAIN) & (known[place] != wanted) & (c != d)
    edge, here, there, wanted = edge[good], here[good], there[good], wanted[good]
    if not len(edge):
        return faces
    a, b, c, d = a[good], b[good], c[good], d[good]
    rank = torch.empty_like(edge)
    rank[(new - old)[good].argsort(descending=True, stable=True)] = torch.arange(len(edge))
    best = (
        torch.full((len(faces),), len(edge))
        .scatter_reduce(0, here, rank, "amin")
        .scatter_reduce(0, there, rank, "amin")
    )
    keys, group = torch.unique(wanted, return_inverse=True)
    first = torch.full((len(keys),), len(edge)).scatter_reduce(0, group, rank, "amin")
    take = (best[here] == rank) & (best[there] == rank) & (first[group] == rank)
    out = faces.clone()
    out[here[take]] = torch.stack([a, d, c], 1)[take]
    out[there[take]] = torch.stack([d, b, c], 1)[take]
    return out


def slid(vertices: Tensor, faces: Tensor) -> Tensor:
    """Vertices moved in their tangent planes toward the middle of their neighbours; those of open edges stay."""
    normals = vertex_normals(vertices, faces)
    ends = directed_edges(faces)
    start, end = torch.cat([ends, ends.flip(1)]).unbind(1)
    total = torch.zeros_like(vertices).index_add(0, start, vertices[end])
    count = torch.zeros_like(vertices[:, :1]).index_add(0, start, vertices.new_ones(len(end), 1))
    away = total / count.clamp(min=1) - vertices
    away = away - normals * (normals * away).sum(-1, keepdim=True)
    # A vertex on a crease or tip has no plane to slide in: its faces look different ways.
    a, b, c = vertices[faces].unbind(1)
    face = normalize(_normal(a, b, c), dim=-1)
    rows = faces.T.reshape(-1)
    agree = torch.ones(len(vertices)).scatter_reduce(
        0, rows, (face.repeat(3, 1) * normals[rows]).sum(-1), "amin", include_self=True
    )
    open_ = (edge_neighbours(faces) < 0).any(1)
    free = (agree > FLAT).float()
    free[faces[open_].flatten()] = 0
    return vertices + SLIDE * free[:, None] * away


def _normal(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.linalg.cross(b - a, c - a)


def _key(a: Tensor, b: Tensor) -> Tensor:
    return (torch.minimum(a, b) << 32) + torch.maximum(a, b)
