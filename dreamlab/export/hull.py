# SPDX-License-Identifier: Apache-2.0
"""A convex hull with few corners: what engines collide with."""

from __future__ import annotations

import math

import numpy as np
import torch

from dreamlab.core.types import Mesh
from renderers.surface.draw import vertex_normals

DIRECTIONS = 64  # as many corners at most: physics engines take 255 at the most


def hull_of(mesh: Mesh) -> Mesh:
    """Of the points that lie farthest in directions spread over the sphere (a golden spiral)."""
    from scipy.spatial import ConvexHull

    points = mesh.vertices.double().numpy()
    up = 1 - (2 * np.arange(DIRECTIONS) + 1) / DIRECTIONS
    turn = math.pi * (3 - math.sqrt(5)) * np.arange(DIRECTIONS)
    wide = np.sqrt(1 - up**2)
    ways = np.stack([wide * np.sin(turn), up, wide * np.cos(turn)], 1)
    corners = points[np.unique((points @ ways.T).argmax(0))]
    found = ConvexHull(corners, qhull_options="QJ")  # joggled, so that a flat sheet has a hull, too
    faces = found.simplices
    a, b, c = corners[faces].transpose(1, 0, 2)
    inward = np.einsum("fi,fi->f", np.cross(b - a, c - a), found.equations[:, :3]) < 0
    faces[inward] = faces[inward][:, ::-1]
    kept, faces = np.unique(faces, return_inverse=True)
    vertices = torch.from_numpy(corners[kept]).float()
    rows = torch.from_numpy(faces.reshape(-1, 3)).long()
    return Mesh(vertices, rows, torch.full_like(vertices, 0.5), vertex_normals(vertices, rows))
