# SPDX-License-Identifier: Apache-2.0
"""Shapes to start from, and signed distances to one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.triangles import areas, scattered
from dreamlab.core.types import Mesh
from renderers.surface.clean import fewer_faces
from renderers.surface.files import read_mesh

SAMPLES = 200_000  # of a surface that distances are measured to


def starting_shape(file: str, faces: int) -> Mesh:
    """A user's mesh, or the ball that stands in until a `from:` brings a shape."""
    return fewer_faces(read_mesh(file), faces) if file else ball(0.6)


def ball(radius: float) -> Mesh:
    """A gray sphere of 320 triangles."""
    import trimesh

    made = trimesh.creation.icosphere(subdivisions=2, radius=radius)
    vertices = torch.from_numpy(np.array(made.vertices, np.float32))
    faces = torch.from_numpy(np.array(made.faces, np.int64))
    return Mesh(vertices, faces, torch.full_like(vertices, 0.5), vertices / radius)


def signed_distances(mesh: Mesh, points: Tensor, samples: int = SAMPLES) -> Tensor:
    """[N] distance to the surface, negative inside, of points [N, 3].

    Distance to the nearest of many samples of the surface; near it, along that sample's normal, which is exact for
    flat parts. The sign is the side of the nearest sample's normal: small holes do no harm.
    """
    from scipy.spatial import cKDTree

    mesh, where = mesh.to("cpu"), points.cpu()
    spots = scattered(mesh.vertices, mesh.faces, samples, torch.Generator().manual_seed(0))
    spot, normal = spots.read(mesh.vertices), torch.nn.functional.normalize(spots.read(mesh.normals), dim=-1)
    distance, nearest = cKDTree(spot.numpy()).query(where.numpy(), workers=-1)
    along = ((where - spot[nearest]) * normal[nearest]).sum(-1)
    gap = torch.from_numpy(distance).float()
    close = gap < 3 * (float(areas(mesh.vertices, mesh.faces).sum()) / samples) ** 0.5
    return torch.where(close, along, torch.where(along < 0, -gap, gap)).to(points)
