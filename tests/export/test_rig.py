# SPDX-License-Identifier: Apache-2.0
"""Skins in GLB files: what a viewer would show, worked out from the file alone, is the scene's motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlab.core.types import Skin
from dreamlab.export.glb import glb_bytes
from tests.export.test_glb import ball, issues
from tests.export.viewer import Glb, turned

SECONDS = 2.0


def some_skin(points: torch.Tensor, still: bool, nearest: int = 3, bones: int = 7) -> Skin:
    """Any motion; `still`: none at time 0."""
    g = torch.Generator().manual_seed(3)
    anchors = torch.randn(bones, 3, generator=g)
    weight, index = torch.cdist(points, anchors).neg().topk(nearest, dim=1)
    growing = torch.linspace(0, 1, 5)[:, None, None] + (0.0 if still else 0.3)
    shift = growing * torch.randn(5, bones, 3, generator=g)
    half = growing * 2.5 * torch.randn(5, bones, 3, generator=g)  # the axis times the tangent of half the angle
    turn = torch.cat([torch.ones(5, bones, 1), half], -1) / (1 + half.square().sum(-1, keepdim=True)).sqrt()
    return Skin(torch.linspace(0, 1, 5), anchors, index, weight.softmax(1), shift, turn)


@pytest.mark.parametrize("nearest", [3, 4, 6])
def test_a_viewer_shows_the_motion(nearest: int) -> None:
    """Each point to the weighted mean of turn (p - anchor) + anchor + shift, in numpy's own words."""
    mesh = ball(2)
    skin = some_skin(mesh.vertices, still=True, nearest=nearest)
    glb = Glb(glb_bytes(mesh, "ball", {}, skin))
    points, index, weight = mesh.vertices.numpy(), skin.index.numpy(), skin.weight.numpy()[..., None]
    for key in range(5):
        rest, xyzw = skin.anchors.numpy()[index], skin.turn[key].numpy()[index][..., [1, 2, 3, 0]]
        bones = turned(xyzw, points[:, None] - rest) + rest + skin.shift[key].numpy()[index]
        np.testing.assert_allclose(glb.points(SECONDS * key / 4), (weight * bones).sum(1), atol=2e-5)


@pytest.mark.parametrize("still", [True, False])
def test_the_file_shows_time_0_where_it_begins(still: bool) -> None:
    """Also when the motion does not begin at rest: the mesh is of time 0."""
    mesh = ball(1)
    glb = Glb(glb_bytes(mesh, "ball", {}, some_skin(mesh.vertices, still)))
    for seconds in (None, 0.0):
        np.testing.assert_allclose(glb.points(seconds), mesh.vertices, atol=1e-5)
    assert np.abs(glb.points(SECONDS) - mesh.vertices.numpy()).max() > 0.1


def test_turns_take_the_short_way() -> None:
    mesh = ball(1)
    glb = Glb(glb_bytes(mesh, "ball", {}, some_skin(mesh.vertices, still=False)))
    animation = glb.document["animations"][0]
    for channel in animation["channels"]:
        if channel["target"]["path"] != "rotation":
            continue
        turns = glb.read(animation["samplers"][channel["sampler"]]["output"])
        np.testing.assert_allclose(np.linalg.norm(turns, axis=1), 1.0, atol=1e-6)
        assert ((turns[1:] * turns[:-1]).sum(1) >= 0).all()


@pytest.mark.node
@pytest.mark.parametrize("nearest", [3, 6])
def test_the_khronos_validator_finds_nothing_in_a_skin(tmp_path: Path, nearest: int) -> None:
    mesh = ball(2)
    found = issues(glb_bytes(mesh, "ball", {}, some_skin(mesh.vertices, False, nearest)), tmp_path)
    assert (found["numErrors"], found["numWarnings"], found["numInfos"]) == (0, 0, 0), found
