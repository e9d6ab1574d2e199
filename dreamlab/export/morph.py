# SPDX-License-Identifier: Apache-2.0
"""Motion point by point in glTF's words: a morph target for each key (3.7.2.2), and an animation of their weights, of
which one is 1 at a key and none where the mesh stands as it does at time 0.

A target holds what its key differs by in places and normals; points that stay are left out (sparse accessors). Between
keys two weights share, so points go straight.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.files import Json
from dreamlab.core.types import Mesh, Track
from dreamlab.export.gltf import ARRAY_BUFFER, Gltf
from dreamlab.export.rig import SECONDS, normals_over

STAYS = 1e-5  # of the diagonal: a smaller way is none
TURNS = 1e-3  # of a normal's length: a smaller turn is none
MOSTLY = 2 / 3  # of all rows: a sparse accessor of more is no smaller


def morphed(document: Gltf, mesh: Mesh, track: Track) -> tuple[list[Json], np.ndarray]:
    """The targets of a primitive, and the weights [keys, targets]."""
    size = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    ways = track.points - mesh.vertices
    ways[ways.norm(dim=-1) < STAYS * size] = 0
    moved = [i for i, way in enumerate(ways) if bool(way.any())]
    turned = normals_over(mesh, torch.cat([mesh.vertices[None], track.points[moved]]))
    targets = []
    for way, normals in zip(ways[moved], turned[1:], strict=True):
        turn = normals - turned[0]
        turn[turn.norm(dim=-1) < TURNS] = 0
        targets.append({"POSITION": _accessor(document, way), "NORMAL": _accessor(document, turn)})
    weights = np.zeros((len(ways), len(moved)), "<f4")
    weights[moved, np.arange(len(moved))] = 1
    return targets, weights


def _accessor(document: Gltf, rows: Tensor) -> int:
    values = rows.numpy().astype("<f4")
    if values.any(1).mean() > MOSTLY:
        return document.accessor(values, ARRAY_BUFFER, bounds=True)
    return document.sparse(values)


def play(document: Gltf, times: Tensor, weights: np.ndarray, node: int) -> None:
    """An animation of the weights of the mesh that a node shows."""
    seconds = document.accessor((SECONDS * times).numpy().astype("<f4"), bounds=True)
    sampler = {"input": seconds, "output": document.accessor(weights.reshape(-1)), "interpolation": "LINEAR"}
    channel = {"sampler": 0, "target": {"node": node, "path": "weights"}}
    document.add("animations", {"name": "motion", "samplers": [sampler], "channels": [channel]})
