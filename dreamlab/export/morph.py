# SPDX-License-Identifier: Apache-2.0
"""Motion point by point in glTF's words: a morph target for each key (3.7.2.2), and an animation of their weights, of
which one is 1 at a key and none where the mesh stands as it does at time 0.

A target holds what its key differs by in places and normals; points that stay are left out (sparse accessors). Between
keys two weights share, so points go straight.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.files import Json
from dreamlab.core.types import Mesh, Skin, Track
from dreamlab.export.gltf import ARRAY_BUFFER, Gltf
from dreamlab.export.rig import SECONDS, normals_over

STAYS = 1e-5  # of the diagonal: a smaller way is none
TURNS = 1e-3  # of a normal's length: a smaller turn is none
MOSTLY = 2 / 3  # of all rows: a sparse accessor of more is no smaller


def _ways(mesh: Mesh, track: Track) -> tuple[Tensor, list[int]]:
    """What each key differs by [T, V, 3], and which keys do."""
    size = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
    ways = track.points - mesh.vertices
    ways[ways.norm(dim=-1) < STAYS * size] = 0
    return ways, [i for i, way in enumerate(ways) if bool(way.any())]


def morph_targets(document: Gltf, mesh: Mesh, track: Track) -> list[Json]:
    """The targets of the mesh's primitive."""
    ways, moved = _ways(mesh, track)
    turned = normals_over(mesh, torch.cat([mesh.vertices[None], track.points[moved]]))
    targets = []
    for way, normals in zip(ways[moved], turned[1:], strict=True):
        turn = normals - turned[0]
        turn[turn.norm(dim=-1) < TURNS] = 0
        targets.append({"POSITION": _accessor(document, way), "NORMAL": _accessor(document, turn)})
    return targets


def _accessor(document: Gltf, rows: Tensor) -> int:
    values = rows.numpy().astype("<f4")
    if values.any(1).mean() > MOSTLY:
        return document.accessor(values, ARRAY_BUFFER, bounds=True)
    return document.sparse(values)


def play(document: Gltf, moving: Mapping[int, tuple[Mesh, Skin | Track | None]], clip: str) -> None:
    """One animation of the weights of all nodes whose mesh has morph targets."""
    samplers: list[Json] = []
    channels: list[Json] = []
    for node, (mesh, track) in moving.items():
        keys = _ways(mesh, track)[1] if isinstance(track, Track) else []
        if not keys or not isinstance(track, Track):
            continue
        weights = np.zeros((len(track.times), len(keys)), "<f4")
        weights[keys, np.arange(len(keys))] = 1
        seconds = document.accessor((SECONDS * track.times).numpy().astype("<f4"), bounds=True)
        output = document.accessor(weights.reshape(-1))
        channels.append({"sampler": len(samplers), "target": {"node": node, "path": "weights"}})
        samplers.append({"input": seconds, "output": output, "interpolation": "LINEAR"})
    if channels:
        document.add("animations", {"name": clip, "samplers": samplers, "channels": channels})
