# SPDX-License-Identifier: Apache-2.0
"""Torch twin of `seen`: what pictures of a surface show at points of it.

A picture counts with cos^4 of the angle between a point's normal and the way to the eye, over the squared depth: where
that cosine is above `grazing`, the point lies in the picture, the five layers read there (colour, depth, trust;
bilinear) are trusted, and the point is not behind the depth by more than `behind` pixels over the cosine.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cuda_ext.reference.texture import fetch

TRUSTED = 0.99


def seen(
    points: Tensor, normals: Tensor, layers: Tensor, eyes: Tensor, to_camera: Tensor, focal: Tensor, grazing: float,
    behind: float,
) -> Tensor:  # fmt: skip
    """[M, 3], [M, 3], [B, S, S, 5], [B, 3], [B, 3, 4], [B] -> [M, 4] sums of colour times weight, and of weights."""
    size = layers.shape[1]
    total = points.new_zeros(len(points), 4)
    for picture, eye, camera, length in zip(layers, eyes, to_camera, focal, strict=True):
        cosine = (normals * normalize(eye - points, dim=-1)).sum(-1)
        local = points @ camera[:, :3].T + camera[:, 3]
        away = -local[:, 2]
        uv = local[:, :2] * (length / away.clamp(min=1e-6) / size)[:, None] * points.new_tensor([1.0, -1.0]) + 0.5
        read = fetch(picture.reshape(1, size**2, 5), uv[None, None], None, size, size, 1, False)[0, 0]
        hidden = away > read[:, 3] + behind * away / length / cosine
        good = (cosine > grazing) & ((uv > 0) & (uv < 1)).all(-1) & (read[:, 4] > TRUSTED) & ~hidden
        weight = torch.where(good, cosine**4 / away.square(), 0.0)[:, None]
        total = total + torch.cat([weight * torch.where(good[:, None], read[:, :3], 0.0), weight], 1)
    return total
