# SPDX-License-Identifier: Apache-2.0
"""How much of a white sky reaches points of a surface: the cosine-weighted share of directions in which nothing of the
surface itself is in the way, by depth pictures from all around, of parallel rays.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cuda_ext.interpolate import interpolate
from cuda_ext.raster import raster

DIRECTIONS = 128
PIXELS = 256  # a side of a depth picture
CHUNK = 16  # pictures in memory at once
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
    ways = directions(count)
    seen, whole = torch.zeros(len(points)), torch.zeros(len(points))
    places, raised = (vertices - centre) / radius, (points + NEAR * pixel * normals - centre) / radius
    for some in ways.split(CHUNK):
        frame = frames(some)  # [B, 3, 3] rows: right, up, toward the sky
        clip = places @ frame.transpose(1, 2)
        clip = torch.cat([clip * clip.new_tensor([1.0, 1.0, -1.0]), torch.ones_like(clip[..., :1])], -1)
        picture = raster(clip, faces, (pixels, pixels))
        height = interpolate(-clip[..., 2:3].contiguous(), picture, faces)[0][..., 0]
        height = torch.where(picture.triangle > 0, height, -2.0)
        at = raised @ frame.transpose(1, 2)  # [B, M, 3]
        column = ((at[..., 0] + 1) / 2 * pixels).long().clamp(0, pixels - 1)
        row = ((1 - at[..., 1]) / 2 * pixels).long().clamp(0, pixels - 1)
        front = height.flatten(1).gather(1, row * pixels + column)
        cosine = (normals @ some.T).T.clamp(min=0)
        # A pixel's middle may lie off the ray by half of its side, on a surface that is steep there.
        slack = 2 * NEAR / pixels
        seen += (cosine * (at[..., 2] > front - slack)).sum(0)
        whole += cosine.sum(0)
    return (seen / whole.clamp(min=1e-6))[:, None].clamp(0, 1)


def frames(ways: Tensor) -> Tensor:
    """[B, 3, 3] right-handed, of which the last row looks along each way."""
    spare = torch.eye(3)[ways.abs().argmin(-1)]
    right = normalize(torch.linalg.cross(spare, ways), dim=-1)
    return torch.stack([right, torch.linalg.cross(ways, right), ways], 1)
