# SPDX-License-Identifier: Apache-2.0
"""Gaussians to a surface: against a ball whose surface, volume and colour are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamlab.core.errors import Diverged
from dreamlab.core.types import Mesh
from dreamlab.export.glb import glb_bytes
from dreamlab.export.writers.obj import obj_bytes
from renderers.gaussian.density import LEVEL, density_of, level_set
from renderers.surface.extraction import surface
from renderers.surface.files import ply_bytes, read_mesh


def gaussians_to_mesh(*cloud: torch.Tensor, resolution: int) -> Mesh:
    return surface(level_set(density_of(*cloud, resolution)))


def one_gaussian(sigma: float = 0.3, opacity: float = 0.9) -> Mesh:
    return gaussians_to_mesh(
        torch.tensor([[0.1, -0.2, 0.3]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.full((1, 3), sigma),
        torch.tensor([opacity]),
        torch.tensor([[0.2, 0.4, 0.6]]),
        resolution=64,
    )


def test_one_gaussian_becomes_the_ball_its_density_says() -> None:
    """mass exp(-r^2 / 2 sigma^2) = level  =>  r = sigma sqrt(2 ln(mass / level)), mass = -ln(1 - opacity)."""
    mesh = one_gaussian()
    radius = 0.3 * math.sqrt(2 * math.log(-math.log(0.1) / LEVEL))
    distance = (mesh.vertices - torch.tensor([0.1, -0.2, 0.3])).norm(dim=-1)
    assert (distance - radius).abs().max() < 0.01  # a cell is 0.028
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert solid.is_watertight and solid.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.02)
    torch.testing.assert_close(
        mesh.colours, torch.tensor([0.2, 0.4, 0.6]).expand(len(mesh.colours), 3), atol=1e-4, rtol=0
    )


def test_normals_point_outwards() -> None:
    mesh = one_gaussian()
    outward = torch.nn.functional.normalize(mesh.vertices - torch.tensor([0.1, -0.2, 0.3]), dim=-1)
    assert (outward * mesh.normals).sum(-1).min() > 0.95
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    facing = torch.linalg.cross(b - a, c - a)
    area = facing.norm(dim=-1)
    agree = (facing * outward[mesh.faces[:, 0]]).sum(-1) / area.clamp(min=1e-12)
    assert (agree[area > 1e-7] > 0).all()  # counter-clockwise seen from outside


def test_a_turned_ellipsoid_keeps_its_axes() -> None:
    half = math.sqrt(0.5)
    mesh = gaussians_to_mesh(
        torch.zeros(1, 3),
        torch.tensor([[half, 0.0, 0.0, half]]),  # a quarter turn about z: x becomes y
        torch.tensor([[0.4, 0.1, 0.2]]),
        torch.tensor([0.9]),
        torch.rand(1, 3),
        resolution=96,
    )
    extent = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    factor = 2 * math.sqrt(2 * math.log(-math.log(0.1) / LEVEL))
    torch.testing.assert_close(extent, factor * torch.tensor([0.1, 0.4, 0.2]), atol=0.03, rtol=0)


def test_a_small_floater_is_dropped_and_a_large_part_kept() -> None:
    centres = torch.tensor([[0.0, 0.0, 0.0], [0.8, 0.0, 0.0], [-0.8, 0.5, 0.0]])
    scales = torch.tensor([[0.2] * 3, [0.15] * 3, [0.02] * 3])
    mesh = gaussians_to_mesh(
        centres,
        torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4),
        scales,
        torch.full((3,), 0.95),
        torch.rand(3, 3),
        resolution=96,
    )
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert solid.body_count == 2 and mesh.vertices[:, 0].min() > -0.5


@pytest.mark.parametrize("opacity", [0.0, 1e-4, 0.05])
def test_an_empty_scene_is_said_not_written(opacity: float) -> None:
    with pytest.raises(Diverged, match=r"empty"):
        one_gaussian(opacity=opacity)


def test_broken_gaussians_are_left_out() -> None:
    means = torch.tensor([[0.0, 0, 0], [float("nan"), 0, 0], [1e30, 0, 0]])
    mesh = gaussians_to_mesh(
        means,
        torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4),
        torch.full((3, 3), 0.2),
        torch.full((3,), 0.9),
        torch.rand(3, 3),
        resolution=32,
    )
    assert torch.isfinite(mesh.vertices).all() and mesh.vertices.abs().max() < 1


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_a_surface_comes_back_from_its_file_with_its_colours(suffix: str, tmp_path: Path) -> None:
    """What an export wrote, as a stage reads it: places to rounding, sRGB colours to a step of eight bits."""
    shape = trimesh.creation.icosphere(subdivisions=2, radius=0.9)
    vertices = torch.from_numpy(np.array(shape.vertices)).float()
    mesh = Mesh(vertices, torch.from_numpy(np.array(shape.faces)).long(), (vertices + 0.9) / 1.8, vertices / 0.9)
    made = {
        "glb": lambda: glb_bytes(mesh, "a", {}),
        "obj": lambda: obj_bytes(mesh, "a"),
        "ply": lambda: ply_bytes(mesh),
    }
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(made[suffix]())
    found = read_mesh(str(path))
    assert len(found.vertices) == len(vertices) and found.vertices.norm(dim=-1).max() <= 0.9 + 1e-5
    torch.testing.assert_close(found.colours, (found.vertices + 0.9) / 1.8, atol=0.004, rtol=0)
