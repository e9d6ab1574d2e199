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

from dreamlab.core.rotation import in_line, matrix
from dreamlab.core.types import Mesh, Skin, Track
from dreamlab.export.gltf import Gltf
from renderers.surface.draw import vertex_normals

SECONDS = 2.0


def weights_of(skin: Skin) -> dict[str, np.ndarray]:
    """JOINTS_i and WEIGHTS_i, four control points a set; empty places are joint 0 with no weight, as glTF wants."""
    spare = -skin.weight.shape[1] % 4
    weight = F.pad(skin.weight, (0, spare)).float()
    index = torch.where(weight > 0, F.pad(skin.index, (0, spare)), 0)
    columns: dict[str, np.ndarray] = {}
    for i in range(weight.shape[1] // 4):
        part = slice(4 * i, 4 * i + 4)
        columns[f"JOINTS_{i}"] = index[:, part].cpu().numpy().astype("<u2")
        columns[f"WEIGHTS_{i}"] = weight[:, part].cpu().numpy().astype("<f4")
    return columns


def bones_of(skin: Skin) -> tuple[Tensor, Tensor]:
    """Places [T, K, 3] and turns [T, K, 4] xyzw of the nodes; neighbouring turns are the near ones of q and -q."""
    place = skin.anchors + skin.shift
    return place, in_line(F.normalize(skin.turn, dim=-1))[..., [1, 2, 3, 0]]


def inverse_bind(skin: Skin) -> Tensor:
    """[K, 4, 4], inverses of the nodes' matrices at time 0."""
    back = matrix(F.normalize(skin.turn[0], dim=-1)).transpose(1, 2)
    found = torch.eye(4, device=back.device).repeat(len(back), 1, 1)
    found[:, :3, :3] = back
    found[:, :3, 3:] = -back @ (skin.anchors + skin.shift[0])[..., None]
    return found


def rig(made: Gltf, skin: Skin, name: str, node: int, clip: str) -> int:
    """Add joints, skin and an animation called `clip` to a document whose `node` holds the mesh; the skin's index."""
    place, turn = bones_of(skin)
    seconds = made.accessor((SECONDS * skin.times).cpu().numpy().astype("<f4"), bounds=True)
    joints, samplers, channels = [], [], []
    for j in range(len(skin.anchors)):
        where = {"translation": place[0, j].tolist(), "rotation": turn[0, j].tolist()}
        joints.append(made.add("nodes", {"name": f"{name}_{j}"} | where))
        for path, values in (("translation", place[:, j]), ("rotation", turn[:, j])):
            output = made.accessor(values.cpu().numpy().astype("<f4"))
            samplers.append({"input": seconds, "output": output, "interpolation": "LINEAR"})
            channels.append({"sampler": len(samplers) - 1, "target": {"node": joints[-1], "path": path}})
    root = made.add("nodes", {"name": f"{name}_skeleton", "children": joints})
    made.show(root)
    # glTF's matrices are stored by columns (3.6.2.4)
    bind = made.accessor(inverse_bind(skin).transpose(1, 2).reshape(-1, 16).cpu().numpy().astype("<f4"))
    index = made.add("skins", {"joints": joints, "inverseBindMatrices": bind, "skeleton": root})
    made.change("nodes", node, {"skin": index})
    made.add("animations", {"name": clip, "samplers": samplers, "channels": channels})
    return index


def track_of(motion: Skin | Track, points: Tensor) -> Track:
    """Where the vertices [V, 3] of the mesh that is written are over time, for formats without skins."""
    if isinstance(motion, Track):
        return motion
    place, turn = motion.anchors + motion.shift, matrix(F.normalize(motion.turn, dim=-1))
    # Back by the joint's matrix of time 0, then forth by that of each time: M(t) M(0)^-1 p.
    index, weight = motion.index, motion.weight[..., None]
    own = torch.einsum("nkji,nkj->nki", turn[0][index], points[:, None] - place[0][index])
    found = [
        (weight * (torch.einsum("nkij,nkj->nki", turned[index], own) + moved[index])).sum(1)
        for turned, moved in zip(turn, place, strict=True)
    ]
    return Track(motion.times, torch.stack(found))


def normals_over(mesh: Mesh, moments: Tensor) -> Tensor:
    """[T, V, 3] with the vertices where they are at each of [T, V, 3]; vertices that share a place and a normal at rest
    are one, as seams of a texture are."""
    rows = torch.cat([mesh.vertices, mesh.normals], 1)
    _, joined = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.zeros(int(joined.max()) + 1, dtype=torch.int64).scatter(0, joined, torch.arange(len(joined)))
    return torch.stack([vertex_normals(points[first], joined[mesh.faces])[joined] for points in moments])
