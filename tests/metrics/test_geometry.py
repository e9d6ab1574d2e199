# SPDX-License-Identifier: Apache-2.0
"""Volumes, overlaps and distances against closed forms, trimesh and brute force."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh

from dreamlab.metrics import geometry
from dreamlab.metrics.asset import equal_sphere, instances, true_answer
from dreamlab.toybox.caption import parse


def tensors(shape: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(shape.vertices).float(), torch.tensor(shape.faces)


def measured(shape: trimesh.Trimesh) -> geometry.Body:
    vertices, faces = tensors(shape)
    return geometry.shape(geometry.voxels(vertices, faces), geometry.surface_points(vertices, faces))


def test_voxels_of_a_box_are_the_cells_inside_it() -> None:
    box = trimesh.creation.box((0.8, 1.1, 0.5), trimesh.transformations.translation_matrix((0.1, -0.2, 0.3)))
    centres = geometry.centres()
    inside = ((centres - torch.tensor([0.1, -0.2, 0.3])).abs() < torch.tensor([0.4, 0.55, 0.25])).all(-1)
    assert torch.equal(geometry.voxels(*tensors(box)), inside)


def test_voxels_of_a_ball_agree_with_its_faces_to_the_cell() -> None:
    ball = trimesh.creation.icosphere(4, 0.7)
    found = geometry.voxels(*tensors(ball))
    distance = geometry.centres().norm(dim=-1)
    assert bool(found[distance < 0.695].all()) and not bool(found[distance > 0.7].any())


def test_turning_the_mesh_turns_the_voxels() -> None:
    """Another axis along the columns, the same answer: crossings are counted right for slanted faces."""
    shape = trimesh.creation.torus(0.5, 0.2)
    upright = geometry.voxels(*tensors(shape))
    turned = shape.copy()
    turned.vertices = shape.vertices[:, [2, 0, 1]]
    differ = upright.permute(2, 0, 1) != geometry.voxels(*tensors(turned))
    assert int(differ.sum()) <= 0.002 * int(upright.sum())


def test_a_closed_shell_is_filled_and_an_open_cup_is_not() -> None:
    outer, inner = trimesh.creation.icosphere(3, 0.8), trimesh.creation.icosphere(3, 0.6)
    inner.invert()
    shell = measured(trimesh.util.concatenate([outer, inner]))
    assert torch.equal(shell.filled, measured(outer).filled)
    mug = parse("a red mug")
    cavity = geometry.shape_of_program(true_answer(mug, instances("mug", 1)[0]).program)
    middle = geometry.CELLS // 2
    assert not bool(cavity.filled[middle, middle + 2 :, middle].any())


def test_iou_of_shifted_boxes_is_the_closed_form() -> None:
    a, b = trimesh.creation.box((0.7, 0.7, 0.7)), trimesh.creation.box((0.7, 0.7, 0.7))
    b.apply_translation((0.35, 0, 0))
    assert geometry.iou(measured(a).filled, measured(b).filled) == pytest.approx(1 / 3, abs=1e-6)


def test_alignment_undoes_shift_and_scale() -> None:
    shape = trimesh.creation.cone(0.7, 1.2)
    other = shape.copy()
    other.apply_scale(0.7)
    other.apply_translation((0.2, -0.1, 0.15))
    found = geometry.compare(measured(other), [measured(shape)])
    assert found.iou < 0.5
    assert found.iou_aligned > 0.93  # half a cell along every face
    assert found.chamfer < 0.5 * 2 * geometry.HALF / geometry.CELLS  # half a cell


def test_chamfer_is_the_brute_force_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(200, 3, generator=generator), torch.rand(150, 3, generator=generator)
    apart = torch.cdist(a.double(), b.double())
    wanted = 0.5 * float(apart.amin(1).mean() + apart.amin(0).mean())
    assert geometry.chamfer(a, b) == pytest.approx(wanted, rel=1e-6)


def test_the_nearest_instance_counts() -> None:
    shapes = [measured(trimesh.creation.icosphere(3, radius)) for radius in (0.3, 0.6, 0.8)]
    assert geometry.compare(shapes[1], shapes).iou == 1.0


def test_nothing_has_no_overlap() -> None:
    empty = geometry.shape(torch.zeros(48, 48, 48, dtype=torch.bool), torch.zeros(0, 3))
    found = geometry.compare(empty, [measured(trimesh.creation.icosphere(2, 0.5))])
    assert (found.iou, found.iou_aligned, found.chamfer) == (0.0, 0.0, math.inf)


def test_the_sphere_answer_has_the_true_volume() -> None:
    caption = parse("a red chair with blue legs")
    seed = instances("chair", 1)[0]
    meshes = [make(caption, seed).mesh(96) for make in (equal_sphere, true_answer)]
    sphere, chair = (trimesh.Trimesh(m.vertices.numpy(), m.faces.numpy()).volume for m in meshes)
    assert sphere == pytest.approx(chair, rel=0.05)
