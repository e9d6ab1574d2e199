# SPDX-License-Identifier: Apache-2.0
"""Rows by index: the values and gradient of plain indexing, and the same bits every time on several threads."""

from __future__ import annotations

import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.gather import taken
from renderers.dmtet import DMTet
from renderers.surface.draw import laplacian, normal_consistency, vertex_normals


@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 3)])
@pytest.mark.parametrize("index_shape", [(5,), (5, 2), (0, 2), ()])
def test_values_and_gradient_are_those_of_plain_indexing(shape: tuple[int, ...], index_shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 7, index_shape, generator=torch.Generator().manual_seed(0))
    found, plain = taken(x, index), x[index]
    assert torch.equal(found, plain)
    weight = torch.randn(found.shape, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, plain))
    torch.testing.assert_close(mine, theirs)


def test_a_gradient_of_many_rows_has_the_same_bits_every_time(two_threads: None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 3, generator=generator).requires_grad_()
    index = torch.randint(0, 200, (60_000, 3), generator=generator)
    weight = torch.randn(60_000, 3, 3, generator=generator)
    found = [torch.autograd.grad((taken(x, index) * weight).sum(), x)[0] for _ in range(10)]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_mesh_scene_has_the_same_gradient_every_time(two_threads: None) -> None:
    """Pictures, normals and both penalties of a surface that is cut anew each time, on two threads."""
    scene = DMTet(DMTet.Settings(resolution=24), torch.Generator().manual_seed(0))
    cameras = orbit([0.0, 60.0, 120.0, 180.0], 10.0)

    def gradient() -> torch.Tensor:
        frames = scene.render(cameras, 48, torch.zeros(4, 3))
        surface = scene.surface()
        loss = frames.rgb.square().mean() + laplacian(surface.vertices, surface.faces)
        normals = vertex_normals(surface.vertices, surface.faces)
        loss = loss + normal_consistency(normals, surface.faces) + scene.penalty("sdf_sign", frames)
        parameters = [scene.params["sdf"], scene.params["deform"]]
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])

    found = [gradient() for _ in range(8)]
    assert all(torch.equal(found[0], other) for other in found[1:]) and found[0].abs().max() > 0
