# SPDX-License-Identifier: Apache-2.0
"""What one surface knows at the points of another that lies close to it: the nearest of many samples names a triangle,
and the point's foot on that triangle is read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dreamlab.core.triangles import areas, scattered

SAMPLES = 200_000
SLICE = 1 << 18  # points at once


class Feet(NamedTuple):
    """Points of a surface."""

    corners: Tensor  # [M, 3] vertices of the triangle each lies on
    weights: Tensor  # [M, 3]
    distance: Tensor  # [M] metres from the point that was asked about

    def read(self, values: Tensor) -> Tensor:
        """[M, C] of values [V, C] at the vertices."""
        return (self.weights[..., None] * values[self.corners]).sum(1)


def feet(vertices: Tensor, faces: Tensor, points: Tensor, samples: int = SAMPLES) -> Feet:
    """The places of the surface nearest to points [M, 3], to within the distance of its samples."""
    from scipy.spatial import cKDTree

    spots = scattered(vertices, faces, samples, torch.Generator().manual_seed(0))
    tree = cKDTree(spots.read(vertices).numpy())
    parts = []
    for some in points.split(SLICE):
        corners = spots.corners[torch.from_numpy(tree.query(some.numpy())[1])]
        weights = foot(some, *vertices[corners].unbind(1))
        place = (weights[..., None] * vertices[corners]).sum(1)
        parts.append(Feet(corners, weights, (place - some).norm(dim=-1)))
    return Feet(*(torch.cat(each) for each in zip(*parts, strict=True)))


def foot(p: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """[M, 3] weights of the points of triangles nearest to points: inside by projection, else on the nearest side."""
    e1, e2, d = b - a, c - a, p - a
    g11, g12, g22 = (e1 * e1).sum(-1), (e1 * e2).sum(-1), (e2 * e2).sum(-1)
    r1, r2 = (d * e1).sum(-1), (d * e2).sum(-1)
    det = (g11 * g22 - g12 * g12).clamp(min=1e-20)
    v, w = (g22 * r1 - g12 * r2) / det, (g11 * r2 - g12 * r1) / det
    inner = torch.stack([1 - v - w, v, w], -1)
    sides = []
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, end = (a, b, c)[i], (a, b, c)[j]
        along = end - start
        t = (((p - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-20)).clamp(0, 1)
        weights = torch.zeros_like(inner)
        weights[:, i], weights[:, j] = 1 - t, t
        sides.append((weights, (start + t[:, None] * along - p).square().sum(-1)))
    nearest = torch.stack([gap for _, gap in sides]).argmin(0)
    outer = torch.stack([weights for weights, _ in sides])[nearest, torch.arange(len(p))]
    return torch.where((inner >= 0).all(-1, keepdim=True), inner, outer)


def apart(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], samples: int = 20_000) -> tuple[float, float]:
    """Root of the mean squared distance between two surfaces (vertices, faces), and the largest, both ways."""
    gaps = []
    for (vertices, faces), there in ((one, other), (other, one)):
        spots = scattered(vertices, faces, samples, torch.Generator().manual_seed(1))
        gaps.append(feet(*there, spots.read(vertices), 2 * samples).distance)
    whole = torch.cat(gaps)
    return float(whole.square().mean().sqrt()), float(whole.max())


def diagonal(vertices: Tensor, faces: Tensor) -> float:
    """Of the box around a surface."""
    named = vertices[faces.flatten()]
    return float((named.amax(0) - named.amin(0)).norm()) if float(areas(vertices, faces).sum()) > 0 else 0.0
