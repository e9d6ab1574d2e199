# SPDX-License-Identifier: Apache-2.0
"""A skin in glTF's words: JOINTS and WEIGHTS of the vertices, a node per control point, inverse bind matrices and one
animation of a clip that lasts SECONDS.

A node's matrix is T(anchor + shift) R(turn). The mesh that is written stands as it does at time 0, so the inverse bind
matrix is the inverse of the node's matrix at time 0, where every joint's product is the identity. Control points that
move nothing and never move themselves stay in: the file then holds the scene's own skin.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.files import Json
from dreamlab.core.rotation import matrix
from dreamlab.core.types import Skin

SECONDS = 2.0
FLOAT, USHORT = 5126, 5123
Column = tuple[np.ndarray, int, str]


def weights_of(skin: Skin) -> dict[str, Column]:
    """JOINTS_i and WEIGHTS_i, four control points a set; empty places are joint 0 with no weight, as glTF wants."""
    spare = -skin.weight.shape[1] % 4
    weight = F.pad(skin.weight, (0, spare)).float()
    index = torch.where(weight > 0, F.pad(skin.index, (0, spare)), 0)
    columns: dict[str, Column] = {}
    for i in range(weight.shape[1] // 4):
        part = slice(4 * i, 4 * i + 4)
        columns[f"JOINTS_{i}"] = (index[:, part].cpu().numpy().astype("<u2"), USHORT, "VEC4")
        columns[f"WEIGHTS_{i}"] = (weight[:, part].cpu().numpy().astype("<f4"), FLOAT, "VEC4")
    return columns


def bones_of(skin: Skin) -> tuple[Tensor, Tensor]:
    """Places [T, K, 3] and turns [T, K, 4] xyzw of the nodes; neighbouring turns are the near ones of q and -q."""
    place = skin.anchors + skin.shift
    turn = F.normalize(skin.turn, dim=-1)[..., [1, 2, 3, 0]].clone()
    for i in range(1, len(turn)):
        turn[i] *= torch.where((turn[i] * turn[i - 1]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return place, turn


def inverse_bind(skin: Skin) -> Tensor:
    """[K, 4, 4], inverses of the nodes' matrices at time 0."""
    back = matrix(F.normalize(skin.turn[0], dim=-1)).transpose(1, 2)
    found = torch.eye(4, device=back.device).repeat(len(back), 1, 1)
    found[:, :3, :3] = back
    found[:, :3, 3:] = -back @ (skin.anchors + skin.shift[0])[..., None]
    return found


def rigged(document: Json, skin: Skin, name: str, first: int) -> list[Column]:
    """Add nodes, skin and animation to a document; the columns that its accessors from `first` on must hold."""
    place, turn = bones_of(skin)
    count = len(skin.anchors)
    seconds = SECONDS * skin.times
    columns: list[Column] = [
        (inverse_bind(skin).transpose(1, 2).reshape(count, 16).cpu().numpy().astype("<f4"), FLOAT, "MAT4"),
        (seconds.cpu().numpy().astype("<f4")[:, None], FLOAT, "SCALAR"),
    ]
    samplers, channels = [], []
    for j in range(count):
        for path, values, shape in (("translation", place[:, j], "VEC3"), ("rotation", turn[:, j], "VEC4")):
            samplers.append({"input": first + 1, "output": first + len(columns), "interpolation": "LINEAR"})
            channels.append({"sampler": len(samplers) - 1, "target": {"node": 2 + j, "path": path}})
            columns.append((values.cpu().numpy().astype("<f4"), FLOAT, shape))
    document["scenes"][0]["nodes"] = [0, 1]
    document["nodes"][0]["skin"] = 0
    document["nodes"].append({"name": f"{name}_skeleton", "children": [2 + j for j in range(count)]})
    document["nodes"] += [
        {"name": f"{name}_{j}", "translation": place[0, j].tolist(), "rotation": turn[0, j].tolist()}
        for j in range(count)
    ]
    joints = [2 + j for j in range(count)]
    document["skins"] = [{"joints": joints, "inverseBindMatrices": first, "skeleton": 1}]
    document["animations"] = [{"name": "motion", "samplers": samplers, "channels": channels}]
    return columns
