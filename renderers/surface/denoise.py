# SPDX-License-Identifier: Apache-2.0
"""A surface without its ripples, and with its edges: bilateral filtering of the faces' normals, then corners that
follow them (Zheng et al. 2011, the local scheme; Sun et al. 2007 for the corners).

What a level of a cloud's density gives is as bumpy as the cloud is grained. A Laplacian takes the bumps and the edges;
normals that agree with their neighbours where those are nearly alike, and only there, take the bumps alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cuda_ext.antialias import edge_neighbours

ALIKE = 0.35  # difference of unit normals within which two faces are one side: 20 degrees
ROUNDS, FOLLOW = 8, 12  # of the normals, and of the corners after them


def denoised(vertices: Tensor, faces: Tensor, rounds: int = ROUNDS, follow: int = FOLLOW) -> Tensor:
    """[V, 3] the same corners, elsewhere by a little."""
    half = edge_neighbours(faces).long()
    other, there = half.clamp(min=0) // 3, (half >= 0)[..., None]
    a, b, c = vertices[faces].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    area = cross.norm(dim=-1, keepdim=True)
    normal = cross / area.clamp(min=1e-12)
    for _ in range(rounds):
        around = normal[other]  # [F, 3, 3]
        apart = (around - normal[:, None]).square().sum(-1, keepdim=True)
        weight = torch.exp(-apart / (2 * ALIKE**2)) * area[other] * there
        normal = normalize(area * normal + (weight * around).sum(1), dim=-1)
    rows = faces.T.reshape(-1)
    count = torch.zeros_like(vertices[:, :1]).index_add(0, rows, torch.ones_like(vertices[:1, :1]).expand(len(rows), 1))
    for _ in range(follow):
        corners = vertices[faces]
        away = corners.mean(1, keepdim=True) - corners  # [F, 3, 3]
        step = normal[:, None] * (away * normal[:, None]).sum(-1, keepdim=True)
        moved = torch.zeros_like(vertices).index_add(0, rows, step.transpose(0, 1).reshape(-1, 3))
        vertices = vertices + moved / count.clamp(min=1)
    return vertices
