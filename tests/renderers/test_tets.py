# SPDX-License-Identifier: Apache-2.0
"""Marching tetrahedra against closed forms and trimesh: orientation, closedness, volume, gradients, refinement."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import trimesh
from torch import Tensor

from renderers.surface.tets import KuhnGrid, cross, marching_tetrahedra, place


def shape(vertices: Tensor, faces: Tensor) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices.detach().numpy(), faces.numpy(), process=False)


def ball(points: Tensor, radius: float = 0.6) -> Tensor:
    return points.norm(dim=-1) - radius


@pytest.mark.parametrize("resolution", [1, 2, 5])
def test_the_tetrahedra_fill_the_cube_and_are_positive(resolution: int) -> None:
    grid = KuhnGrid(resolution, 0.7)
    corners = grid.vertices().double()[grid.tets()]
    volumes = torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6
    assert len(volumes) == 6 * resolution**3
    torch.testing.assert_close(volumes, torch.full_like(volumes, grid.cell**3 / 6), rtol=1e-5, atol=0)


@pytest.mark.parametrize("inside", ["negative", "positive"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_sphere_faces_outward_for_both_signs_and_both_windings(inside: str, mirrored: bool) -> None:
    grid = KuhnGrid(24)
    points, tets = grid.vertices().double(), grid.tets()
    sdf = ball(points) * (1 if inside == "negative" else -1)
    tets = tets[:, [1, 0, 2, 3]] if mirrored else tets
    found = shape(*marching_tetrahedra(points, sdf, tets, inside))
    assert found.is_watertight and found.is_winding_consistent and found.body_count == 1
    assert found.euler_number == 2
    assert found.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.01)  # signed: positive means outward


@pytest.mark.parametrize("case", range(1, 15))
def test_every_case_of_one_tetrahedron_separates_its_corners(case: int) -> None:
    """All triangles face the corners outside, and the cut-off part has the volume of the linear function."""
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    outside = torch.tensor([bool(case >> i & 1) for i in range(4)])
    sdf = torch.where(outside, 0.7, -0.4).double()
    vertices, faces = marching_tetrahedra(points, sdf, torch.tensor([[0, 1, 2, 3]]))
    a, b, c = vertices[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    for face, corner in itertools.product(range(len(faces)), range(4)):
        side = float((points[corner] - a[face]) @ normal[face])
        assert (side > 0) == bool(outside[corner])
    assert len(faces) == (2 if int(outside.sum()) == 2 else 1)


def test_random_distances_give_a_closed_manifold() -> None:
    """Whatever the signs: with the border outside, every edge has exactly two faces in opposite directions."""
    generator = torch.Generator().manual_seed(3)
    grid = KuhnGrid(9)
    sdf = torch.randn(grid.count, generator=generator)
    sdf[grid.border()] = 1.0
    edges, faces = grid.cross(sdf)
    found = shape(place(grid.points(edges), sdf[edges]), faces)
    assert found.is_watertight and found.is_winding_consistent
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len(directed.unique(dim=0)) == len(directed)


def test_only_mixed_cubes_gives_the_same_surface() -> None:
    grid = KuhnGrid(12)
    sdf = ball(grid.vertices()) + 0.2 * torch.sin(9 * grid.vertices()[:, 0])
    some, every = grid.cross(sdf), cross(sdf, grid.tets())
    torch.testing.assert_close(some.edges, every.edges)
    assert {tuple(f) for f in some.faces.tolist()} == {tuple(f) for f in every.faces.tolist()}


def test_specks_and_bubbles_are_found_and_true_parts_are_not() -> None:
    grid = KuhnGrid(24)
    points = grid.vertices()
    large, other = (points - torch.tensor([-0.4, 0, 0])).norm(dim=-1), (points - torch.tensor([0.6, 0, 0])).norm(dim=-1)
    sdf = torch.minimum(large - 0.4, other - 0.25)  # two true parts
    speck = (points - torch.tensor([0.0, 0.75, 0.0])).norm(dim=-1) < 0.1
    bubble = large < 0.15
    # A diagonal of one cube from low to high is an edge of the grid, one across it is not.
    row = int((points - torch.tensor([0.0, -0.75, 0.0])).norm(dim=-1).argmin())
    along, across = row + grid.side**2 + grid.side + 1, row + grid.side**2 - grid.side
    sdf = torch.where(speck, -0.1, torch.where(bubble, 0.1, sdf))
    sdf[[row, along, across]] = -0.1
    found = grid.lonely(sdf, 0.02)
    assert found[speck].all() and found[bubble].all() and found[[row, along, across]].all()
    assert int(found.sum()) == int((speck | bubble).sum()) + 3
    # Two vertices in one part are not less than a share that a single one is.
    largest = int((large < 0.4).sum() - bubble.sum())
    kept = grid.lonely(sdf, 1.5 / largest)
    assert kept[across] and not kept[row] and not kept[along]


def test_refining_keeps_the_surface() -> None:
    grid = KuhnGrid(10)
    coarse = ball(grid.vertices().double())
    finer, fine = grid.refine(coarse)
    assert finer.resolution == 20
    before = shape(*marching_tetrahedra(grid.vertices().double(), coarse, grid.tets()))
    after = shape(*marching_tetrahedra(finer.vertices().double(), fine, finer.tets()))
    assert after.volume == pytest.approx(before.volume, rel=1e-6)
    assert after.area == pytest.approx(before.area, rel=1e-6)


def test_gradients_against_finite_differences() -> None:
    grid = KuhnGrid(3)
    generator = torch.Generator().manual_seed(1)
    points = grid.vertices().double() + 0.05 * torch.randn(grid.count, 3, generator=generator).double()
    sdf = ball(points, 0.55) + 0.05
    edges, _ = cross(sdf, grid.tets())

    def moved(points: Tensor, sdf: Tensor) -> Tensor:
        return place(points[edges], sdf[edges])

    assert torch.autograd.gradcheck(moved, (points.requires_grad_(), sdf.detach().requires_grad_()), atol=1e-6)


def test_zeros_and_denormals_stay_finite() -> None:
    grid = KuhnGrid(4)
    sdf = torch.zeros(grid.count)
    sdf[::3] = 1e-40
    sdf.requires_grad_()
    vertices, _ = marching_tetrahedra(grid.vertices(), sdf, grid.tets())
    vertices.sum().backward()
    assert torch.isfinite(vertices).all() and torch.isfinite(sdf.grad).all()
