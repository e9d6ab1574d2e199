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


def from_matrix(turn: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 4]: the eigenvector of the largest eigenvalue (Bar-Itzhack 2000), whose sign is free."""
    m = turn.double()
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    vector = torch.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1)
    table = m.new_zeros(*m.shape[:-2], 4, 4)
    table[..., 0, 0], table[..., 0, 1:], table[..., 1:, 0] = trace, vector, vector
    table[..., 1:, 1:] = m + m.transpose(-1, -2) - trace[..., None, None] * torch.eye(3).to(m)
    return torch.linalg.eigh(table).eigenvectors[..., -1].to(turn)


def in_line(quats: Tensor) -> Tensor:
    """[T, K, 4] the same turns, of q and -q always the one that is near the one before."""
    found = quats.clone()
    for i in range(1, len(found)):
        found[i] *= torch.where((found[i] * found[i - 1]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return found
