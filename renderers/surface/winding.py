# SPDX-License-Identifier: Apache-2.0
"""Triangles of others, turned so that all of a part face one way, and a closed part outward."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def turned_over(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F] bool: the triangles to turn. Neighbours across an edge of exactly two triangles agree afterwards where the
    surface has two sides; a closed part encloses a positive volume, an open one keeps what most of its area says."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    rows, count = faces.numpy(), len(faces)
    first, second, against, open_face = _neighbours(rows)
    pairs, index = np.unique(np.stack([first, second], 1), axis=0, return_index=True)
    weight = np.where(against[index], 2, 1).astype(np.int8)
    graph = coo_matrix((weight, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    part = connected_components(graph, directed=False)[1]
    seeds = np.unique(part, return_index=True)[1]
    # One more node beside the first triangle of every part makes a single walk of it.
    rim = coo_matrix((np.ones(len(seeds), np.int8), (np.full(len(seeds), count), seeds)), shape=(count + 1,) * 2)
    graph.resize(count + 1, count + 1)
    whole = (graph + rim.tocsr()).tocsr()
    order, before = breadth_first_order(whole, count, directed=False)
    steps = order[1:]
    odd = np.asarray(np.maximum(whole[before[steps], steps], whole[steps, before[steps]])).ravel() == 2
    flip = np.zeros(count + 1, bool)
    for face, parent, differs in zip(steps.tolist(), before[steps].tolist(), odd.tolist(), strict=True):
        flip[face] = flip[parent] ^ differs
    turn = flip[:count]
    where = vertices.numpy()[rows].astype(np.float64)
    cross = np.cross(where[:, 1] - where[:, 0], where[:, 2] - where[:, 0])
    sign = np.where(turn, -1.0, 1.0)
    volume = np.bincount(part, sign * (where.mean(1) * cross).sum(1))
    agrees = np.bincount(part, sign * np.linalg.norm(cross, axis=1))
    closed = np.bincount(part, open_face) == 0
    return torch.from_numpy(turn ^ np.where(closed, volume < 0, agrees < 0)[part])


def _neighbours(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of triangles across edges that exactly two have, whether the two run along it in one direction (so that one
    of them is wrong), and [F] whether a triangle has an edge that is not so."""
    edges = np.concatenate([rows[:, [0, 1]], rows[:, [1, 2]], rows[:, [2, 0]]])
    face = np.tile(np.arange(len(rows)), 3)
    _, inverse, uses = np.unique(np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    two = uses == 2
    order = np.argsort(inverse, kind="stable")
    order = order[two[inverse[order]]]
    a, b = order[::2], order[1::2]
    open_face = np.zeros(len(rows), bool)
    open_face[face[~two[inverse]]] = True
    return face[a], face[b], edges[a, 0] == edges[b, 0], open_face
