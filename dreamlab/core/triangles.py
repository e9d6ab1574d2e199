# SPDX-License-Identifier: Apache-2.0
"""Points of a surface of triangles: where they lie, uniform by area."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spots(NamedTuple):
    """Points of triangles by their corners."""

    corners: Tensor  # [N, 3] rows of the vertices
    weights: Tensor  # [N, 3, 1] adding up to 1

    def read(self, values: Tensor) -> Tensor:
        """[N, C] of values [V, C] at the vertices."""
        return (self.weights * values[self.corners]).sum(1)


def areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F] square metres."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=-1) / 2


def scattered(vertices: Tensor, faces: Tensor, count: int, stream: torch.Generator) -> Spots:
    """`count` points uniform by area: one in each of `count` equal parts of the whole, face after face."""
    total = areas(vertices, faces).double().cumsum(0)
    drawn = torch.rand(3, count, generator=stream, device=stream.device, dtype=torch.float64).to(total.device)
    part = (torch.arange(count, device=total.device) + drawn[0]) / count
    face = torch.searchsorted(total, part * total[-1], right=True).clamp(max=len(faces) - 1)
    u, v = drawn[1:].to(vertices.dtype)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    return Spots(faces[face], torch.stack([1 - u - v, u, v], -1)[..., None])
