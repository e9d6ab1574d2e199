# SPDX-License-Identifier: Apache-2.0
"""How much of a white sky reaches points of a surface: the cosine-weighted share of directions in which nothing of the
surface itself is in the way, by height pictures from all around, of parallel rays.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cuda_ext.sky import sky

DIRECTIONS = 128  # half of them, and their opposites
PIXELS = 256  # a side of a depth picture
NEAR = 1.5  # pixels: what is nearer than that along a ray is the surface itself


def directions(count: int) -> Tensor:
    """[N, 3] units, evenly over the sphere (a Fibonacci spiral)."""
    i = torch.arange(count) + 0.5
    z, turn = 1 - 2 * i / count, math.pi * (1 + 5**0.5) * i
    ring = (1 - z * z).clamp(min=0).sqrt()
    return torch.stack([ring * turn.cos(), ring * turn.sin(), z], -1).float()


def occlusion(
    vertices: Tensor,  # [V, 3]
    faces: Tensor,  # [F, 3]
    points: Tensor,  # [M, 3] of the surface
    normals: Tensor,  # [M, 3] unit
    count: int = DIRECTIONS,
    pixels: int = PIXELS,
) -> Tensor:
    """[M, 1] in [0, 1]; 1 where nothing is in the way."""
    low, high = vertices.aminmax(dim=0)
    centre, radius = (low + high) / 2, float((high - low).norm()) / 2 + 1e-6
    pixel = 2 * radius / pixels
    places, raised = (vertices - centre) / radius, (points + NEAR * pixel * normals - centre) / radius
    # A pixel's middle may lie off the ray by half of its side, on a surface that is steep there.
    ways = frames(directions(count)[: count // 2])
    return sky(places, faces, raised, normals, ways, pixels=pixels, slack=2 * NEAR / pixels)[:, None].clamp(0, 1)


def frames(ways: Tensor) -> Tensor:
    """[B, 3, 3] right-handed, of which the last row looks along each way."""
    spare = torch.eye(3)[ways.abs().argmin(-1)]
    right = normalize(torch.linalg.cross(spare, ways), dim=-1)
    return torch.stack([right, torch.linalg.cross(ways, right), ways], 1)
