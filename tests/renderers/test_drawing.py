# SPDX-License-Identifier: Apache-2.0
"""What surfaces are drawn and smoothed with: the Laplacian against a plain loop and finite differences, averages
against numpy's, joined corners, surfaces that are drawn in parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from renderers.surface import pictures
from renderers.surface.clean import named
from renderers.surface.draw import laplacian
from renderers.surface.pictures import Drawable, averaged, joined_by_place
from renderers.surface.shapes import ball
from renderers.surface.views import all_around, background


def fan() -> tuple[Tensor, Tensor]:
    """An open surface, and a vertex that no triangle names."""
    vertices = torch.rand(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return vertices, torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 4], [4, 3, 5]])


def test_the_laplacian_is_what_a_plain_loop_makes_of_it_and_so_is_its_gradient() -> None:
    vertices, faces = fan()
    around: dict[int, list[int]] = {i: [] for i in range(6)}
    for a, b, c in faces.tolist():
        for i, j in ((a, b), (b, c), (c, a)):
            around[i].append(j)
            around[j].append(i)
    gaps = [np.linalg.norm(vertices[near].numpy().mean(0) - vertices[i].numpy()) for i, near in around.items()]
    assert float(laplacian(vertices, faces)) == pytest.approx(float(np.mean(gaps)), rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: laplacian(x, faces), (vertices.requires_grad_(),))


def test_pictures_are_averaged_over_squares_and_what_is_left_over_is_left_out() -> None:
    values = np.random.default_rng(0).random((2, 7, 9, 3)).astype(np.float32)
    for times in (1, 2, 3):
        high, wide = 7 // times, 9 // times
        cut = values[:, : high * times, : wide * times].reshape(2, high, times, wide, times, 3)
        np.testing.assert_allclose(averaged(torch.from_numpy(values), times), cut.mean((2, 4)), atol=1e-6)


def test_corners_of_one_place_are_one_and_named_vertices_keep_their_order() -> None:
    g = torch.Generator().manual_seed(1)
    places = torch.rand(20, 3, generator=g)
    places[0, 0], places[5:15, :2] = 0.0, 0.25
    pick = torch.randint(20, (200,), generator=g)
    vertices = places[pick]
    vertices[(pick == 0).nonzero()[0, 0], 0] = -0.0
    faces = torch.randint(200, (50, 3), generator=g)
    joined, corners, row = joined_by_place(vertices, faces)
    assert len(joined) == len(pick.unique()) and torch.equal(joined[row], vertices + 0.0)
    assert torch.equal(corners, row[faces])
    rows, renumbered = named(faces, 200)
    assert torch.equal(rows, faces.unique()) and torch.equal(rows[renumbered], faces)


def test_a_surface_drawn_in_parts_is_the_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = replace(ball(0.7), colours=(ball(0.7).vertices + 1) / 2)
    cameras = all_around(5)
    whole = Drawable(mesh).pictures(cameras, 24, background(cameras))
    monkeypatch.setattr(pictures, "PIXELS", 2 * 24**2)
    for part, all_at_once in zip(Drawable(mesh).pictures(cameras, 24, background(cameras)), whole, strict=True):
        assert torch.equal(part, all_at_once)
    assert 0.1 < float(whole[1].mean()) < 0.9
