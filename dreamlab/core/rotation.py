# SPDX-License-Identifier: Apache-2.0
"""Rotations as quaternions wxyz of any length, as the `splat` op takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlab.core.safemath import safe_normalize


def matrix(quats: Tensor) -> Tensor:
    """[..., 4] -> [..., 3, 3]."""
    w, x, y, z = safe_normalize(quats).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def product(a: Tensor, b: Tensor) -> Tensor:
    """The rotation b, then a: [..., 4] twice."""
    w, v = a[..., :1], a[..., 1:]
    s, u = b[..., :1], b[..., 1:]
    return torch.cat([w * s - (v * u).sum(-1, keepdim=True), w * u + s * v + torch.linalg.cross(v, u, dim=-1)], -1)


def from_vector(half: Tensor) -> Tensor:
    """[..., 3] -> [..., 4]: 1 + half, normalised; `half` is the axis times the tangent of half the angle."""
    return safe_normalize(torch.cat([torch.ones_like(half[..., :1]), half], -1))
