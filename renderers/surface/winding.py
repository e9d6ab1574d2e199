# SPDX-License-Identifier: Apache-2.0
"""Triangles turned so that those of a part face one way: a single walk over all parts, however many there are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Walk(NamedTuple):
    """What the triangles F say of each other; numpy, on the host."""

    turned: (
        np.ndarray
    )  # [F] bool: those to turn for all of a part to agree, as far as they can (a Moebius strip cannot)
    part: np.ndarray  # [F] numbers from 0 of the parts that hang together by edges of exactly two triangles
    rim: np.ndarray  # [F] bool: those with an edge of another kind


def walk(faces: Tensor) -> Walk:
    """The first triangle of every part stays as it is."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    rows, count = faces.numpy(), len(faces)
    first, second, against, rim = _neighbours(rows)
    pairs, index = np.unique(np.stack([first, second], 1), axis=0, return_index=True)
    weight = np.where(against[index], 2, 1).astype(np.int8)
    graph = coo_matrix((weight, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    part = connected_components(graph, directed=False)[1]
    seeds = np.unique(part, return_index=True)[1]
    # One more node beside the first triangle of every part makes a single walk of it.
    hub = coo_matrix((np.ones(len(seeds), np.int8), (np.full(len(seeds), count), seeds)), shape=(count + 1,) * 2)
    graph.resize(count + 1, count + 1)
    whole = (graph + hub.tocsr()).tocsr()
    order, before = breadth_first_order(whole, count, directed=False)
    steps = order[1:]
    odd = np.asarray(np.maximum(whole[before[steps], steps], whole[steps, before[steps]])).ravel() == 2
    turned = np.zeros(count + 1, bool)
    for face, parent, differs in zip(steps.tolist(), before[steps].tolist(), odd.tolist(), strict=True):
        turned[face] = turned[parent] ^ differs
    return Walk(turned[:count], part, rim)


def turned_over(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F] bool: the triangles to turn for a part to face one way: a closed one encloses a positive volume then, an
    open one faces as most of its area did."""
    turned, part, rim = walk(faces)
    where = vertices.numpy()[faces.numpy()].astype(np.float64)
    cross = np.cross(where[:, 1] - where[:, 0], where[:, 2] - where[:, 0])
    sign = np.where(turned, -1.0, 1.0)
    volume = np.bincount(part, sign * (where.mean(1) * cross).sum(1))
    agrees = np.bincount(part, sign * np.linalg.norm(cross, axis=1))
    closed = np.bincount(part, rim) == 0
    return torch.from_numpy(turned ^ np.where(closed, volume < 0, agrees < 0)[part])


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
    rim = np.zeros(len(rows), bool)
    rim[face[~two[inverse]]] = True
    return face[a], face[b], edges[a, 0] == edges[b, 0], rim
