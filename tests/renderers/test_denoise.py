# SPDX-License-Identifier: Apache-2.0
"""Ripples go and edges stay: a cube and a ball whose true normals, places and volumes are known."""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from torch import Tensor

from renderers.surface.denoise import denoised


def tensors(solid: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.tensor(np.array(solid.vertices)).float(), torch.tensor(np.array(solid.faces)).long()


def shaken(vertices: Tensor, faces: Tensor, amount: float) -> Tensor:
    """Every corner moved along the normal of its surface, as a level of a grained density is."""
    normals = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False).vertex_normals
    noise = torch.randn(len(vertices), 1, generator=torch.Generator().manual_seed(3))
    return vertices + amount * noise * torch.tensor(np.array(normals)).float()


def normals_off(vertices: Tensor, faces: Tensor, true: Tensor) -> float:
    """Mean angle in degrees between the faces' normals and the true ones."""
    a, b, c = vertices[faces].unbind(1)
    found = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    return float(torch.rad2deg((found * true).sum(-1).clamp(-1, 1).acos()).mean())


def test_a_cube_is_flat_again_and_has_its_edges() -> None:
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    for _ in range(4):
        box = box.subdivide()
    vertices, faces = tensors(box)
    true = torch.tensor(np.array(box.face_normals)).float()
    rough = shaken(vertices, faces, 0.006)
    made = denoised(rough, faces)
    before, after = normals_off(rough, faces, true), normals_off(made, faces, true)
    assert before > 8 and after < before / 3
    # Corners of the cube's edges lie where two sides meet: a Laplacian would draw them in by a tenth of a triangle.
    edge = (vertices.abs() > 0.499).sum(1) >= 2
    moved, before = (float((each - vertices)[edge].norm(dim=-1).mean()) for each in (made, rough))
    assert moved < before + 0.002
    volume = trimesh.Trimesh(made.numpy(), faces.numpy(), process=False).volume
    assert abs(volume - 1) < 0.01


def test_a_ball_keeps_its_size_and_a_smooth_surface_stays() -> None:
    vertices, faces = tensors(trimesh.creation.icosphere(subdivisions=4, radius=0.7))
    true = torch.nn.functional.normalize(vertices[faces].mean(1), dim=-1)
    assert float((denoised(vertices, faces) - vertices).norm(dim=-1).max()) < 0.003
    rough = shaken(vertices, faces, 0.006)
    made = denoised(rough, faces)
    assert normals_off(made, faces, true) < normals_off(rough, faces, true) / 2
    assert abs(float(made.norm(dim=-1).mean()) - 0.7) < 0.003
