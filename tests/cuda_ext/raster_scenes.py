# SPDX-License-Identifier: Apache-2.0
"""Meshes, cameras and comparisons that the tests of the raster family share."""

from __future__ import annotations

import torch
import trimesh
from torch import Tensor

from cuda_ext.raster import projection
from dreamlab.core.cameras import Cameras, orbit


def mesh_tensors(mesh: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces, dtype=torch.int64)


def sphere(subdivisions: int, radius: float = 0.8) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def to_clip(vertices: Tensor, cameras: Cameras, size: tuple[int, int], near: float = 0.1, far: float = 10.0) -> Tensor:
    """[V, 3] -> [B, V, 4]"""
    matrix = projection(cameras.fovy_deg, size[1] / size[0], near, far) @ cameras.world_to_camera()
    homogeneous = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1)
    return homogeneous @ matrix.to(vertices).transpose(1, 2)


def views(count: int = 1, elevation_deg: float = 20.0, distance: float = 3.0) -> Cameras:
    return orbit([25.0 + 360.0 * i / count for i in range(count)], elevation_deg, distance, 40.0)


def soup(count: int, generator: torch.Generator, batch: int = 2, behind: bool = False) -> tuple[Tensor, Tensor]:
    """Random triangles that share no corner; with `behind` many of them reach behind the camera."""
    clip = torch.randn(batch, 3 * count, 4, generator=generator)
    clip[..., 3] = 2 * clip[..., 3] + 1 if behind else clip[..., 3].abs() + 0.3
    return clip, torch.arange(3 * count).reshape(count, 3)


def pixel_clip(points: list[tuple[float, float]], size: tuple[int, int], z: float = 0.0) -> Tensor:
    """[1, n, 4] clip positions (w = 1) of points given as (x, y) in pixels, y down."""
    height, width = size
    return torch.tensor([[[2 * x / width - 1, 1 - 2 * y / height, z, 1.0] for x, y in points]])


def assert_close_except(ours: Tensor, other: Tensor, outliers: int, where: str, tolerance: float = 1e-4) -> None:
    """Equal to `tolerance` of the other's largest element (at least 1), but for at most `outliers` elements."""
    ours, other = ours.detach(), other.detach()
    bad = ~((ours - other).abs() <= tolerance * max(1.0, float(other.abs().max()) if other.numel() else 1.0))
    assert int(bad.sum()) <= outliers, f"{where}: {int(bad.sum())} of {bad.numel()} elements differ"
