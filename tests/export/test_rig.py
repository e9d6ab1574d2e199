# SPDX-License-Identifier: Apache-2.0
"""Skins in GLB files: what a viewer would show, worked out from the file alone, is the scene's motion."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamlab.core.rotation import from_vector, matrix
from dreamlab.core.types import Skin
from dreamlab.export.glb import glb_bytes
from tests.export.test_glb import ball, issues

KINDS = {5126: "<f4", 5123: "<u2", 5125: "<u4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def some_skin(points: torch.Tensor, still: bool, nearest: int = 3, bones: int = 7) -> Skin:
    """Any motion; `still`: none at time 0."""
    g = torch.Generator().manual_seed(3)
    anchors = torch.randn(bones, 3, generator=g)
    weight, index = torch.cdist(points, anchors).neg().topk(nearest, dim=1)
    growing = torch.linspace(0, 1, 5)[:, None, None] + (0.0 if still else 0.3)
    shift = growing * torch.randn(5, bones, 3, generator=g)
    turn = from_vector((growing * 2.5 * torch.randn(5, bones, 3, generator=g)).flatten(0, 1)).unflatten(0, (5, bones))
    return Skin(torch.linspace(0, 1, 5), anchors, index, weight.softmax(1), shift, turn)


class Viewer:
    """The parts of a glTF viewer that skinning needs, written from the specification (3.7.3)."""

    def __init__(self, data: bytes) -> None:
        size = struct.unpack("<I", data[12:16])[0]
        self.document: dict[str, Any] = json.loads(data[20 : 20 + size])
        self.binary = data[28 + size :]

    def read(self, accessor: int) -> np.ndarray:
        found = self.document["accessors"][accessor]
        begin = self.document["bufferViews"][found["bufferView"]]["byteOffset"]
        width = WIDTHS[found["type"]]
        values = np.frombuffer(self.binary, KINDS[found["componentType"]], found["count"] * width, begin)
        return values.reshape(-1, width)

    def at(self, key: int | None) -> np.ndarray:
        """Vertices at a key of the animation, or (None) as the nodes stand."""
        nodes = [dict(node) for node in self.document["nodes"]]
        animation = self.document["animations"][0]
        for channel in animation["channels"] if key is not None else []:
            sampler = animation["samplers"][channel["sampler"]]
            nodes[channel["target"]["node"]][channel["target"]["path"]] = self.read(sampler["output"])[key]
        skin = self.document["skins"][0]
        bind = self.read(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)  # stored by columns
        joints = []
        for node, inverse in zip(skin["joints"], bind, strict=True):
            x, y, z, w = nodes[node]["rotation"]
            made = np.eye(4)
            made[:3, :3] = matrix(torch.tensor([[w, x, y, z]], dtype=torch.float64))[0].numpy()
            made[:3, 3] = nodes[node]["translation"]
            joints.append(made @ inverse)
        attributes = self.document["meshes"][0]["primitives"][0]["attributes"]
        points = self.read(attributes["POSITION"])
        homogeneous = np.concatenate([points, np.ones((len(points), 1))], 1)
        moved = np.zeros((len(points), 4))
        for i in range(sum(name.startswith("JOINTS") for name in attributes)):
            index, weight = self.read(attributes[f"JOINTS_{i}"]), self.read(attributes[f"WEIGHTS_{i}"])
            bones = np.array(joints)[index]
            moved += np.einsum("nk,nkij,nj->ni", weight, bones, homogeneous)
        return moved[:, :3]


@pytest.mark.parametrize("nearest", [3, 4, 6])
def test_a_viewer_shows_the_motion(nearest: int) -> None:
    mesh = ball(2)
    skin = some_skin(mesh.vertices, still=True, nearest=nearest)
    viewer = Viewer(glb_bytes(mesh, "ball", {}, skin))
    for key in range(5):
        turned = matrix(skin.turn[key])[skin.index]
        rest = skin.anchors[skin.index]
        bones = torch.einsum("nkij,nkj->nki", turned, mesh.vertices[:, None] - rest) + rest
        wanted = (skin.weight[..., None] * (bones + skin.shift[key][skin.index])).sum(1)
        np.testing.assert_allclose(viewer.at(key), wanted, atol=2e-5)


@pytest.mark.parametrize("still", [True, False])
def test_the_file_shows_time_0_where_it_begins(still: bool) -> None:
    """Also when the motion does not begin at rest: the mesh is of time 0."""
    mesh = ball(1)
    viewer = Viewer(glb_bytes(mesh, "ball", {}, some_skin(mesh.vertices, still)))
    for key in (None, 0):
        np.testing.assert_allclose(viewer.at(key), mesh.vertices, atol=1e-5)
    assert np.abs(viewer.at(4) - mesh.vertices.numpy()).max() > 0.1


def test_turns_take_the_short_way() -> None:
    mesh = ball(1)
    viewer = Viewer(glb_bytes(mesh, "ball", {}, some_skin(mesh.vertices, still=False)))
    for sampler in viewer.document["animations"][0]["samplers"][1::2]:
        turns = viewer.read(sampler["output"])
        np.testing.assert_allclose(np.linalg.norm(turns, axis=1), 1.0, atol=1e-6)
        assert ((turns[1:] * turns[:-1]).sum(1) >= 0).all()


@pytest.mark.node
@pytest.mark.parametrize("nearest", [3, 6])
def test_the_khronos_validator_finds_nothing_in_a_skin(tmp_path: Path, nearest: int) -> None:
    mesh = ball(2)
    found = issues(glb_bytes(mesh, "ball", {}, some_skin(mesh.vertices, False, nearest)), tmp_path)
    assert (found["numErrors"], found["numWarnings"], found["numInfos"]) == (0, 0, 0), found
