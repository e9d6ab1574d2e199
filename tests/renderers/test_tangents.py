# SPDX-License-Identifier: Apache-2.0
"""Tangents against MikkTSpace itself (npm package mikktspace, Mikkelsen's C code), and where charts are mirrored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

from dreamlab.core.types import Mesh
from renderers.surface.atlas import unwrap
from renderers.surface.tangents import tangents, with_tangents
from tests.renderers.solids import level, of

ASK = """
const [folder, asked, answer] = process.argv.slice(1), fs = require("fs");
const d = JSON.parse(fs.readFileSync(asked));
const made = require(folder).generateTangents(new Float32Array(d.p), new Float32Array(d.n), new Float32Array(d.t));
fs.writeFileSync(answer, JSON.stringify(Array.from(made)));
"""


def judge(mesh: Mesh, folder: Path) -> torch.Tensor:
    """[F, 3, 4] of the judge; its w counts v upward, glTF's downward."""
    package = os.environ.get("DREAMLAB_MIKKTSPACE", "")
    if shutil.which("node") is None or not Path(package, "package.json").is_file():
        pytest.skip("needs Node.js and the npm package mikktspace (DREAMLAB_MIKKTSPACE names its folder)")
    assert mesh.uv is not None
    rows = mesh.faces.flatten()
    parts = {"p": mesh.vertices, "n": mesh.normals, "t": mesh.uv}
    asked, answer = folder / "asked.json", folder / "answer.json"
    asked.write_text(json.dumps({name: value[rows].flatten().tolist() for name, value in parts.items()}))
    subprocess.run(["node", "-e", ASK, package, str(asked), str(answer)], check=True, capture_output=True)
    found = torch.tensor(json.loads(answer.read_text())).reshape(-1, 3, 4)
    return found * torch.tensor([1.0, 1.0, 1.0, -1.0])


def laid_out() -> Mesh:
    """A wavy ball of 2,000 triangles with charts."""
    made = level(lambda p: p.norm(dim=-1) - 0.6 - 0.08 * torch.sin(7 * p).prod(-1), 20)
    atlas = unwrap(made.vertices, made.faces, 512, "own")
    rows = atlas.source
    return Mesh(made.vertices[rows], atlas.faces, made.colours[rows], made.normals[rows], atlas.uv)


def mirrored() -> Mesh:
    """The same with a picture that is folded at x = 0 without a seam: vertices there have two directions of u."""
    made = laid_out()
    assert made.uv is not None
    uv = torch.stack([(made.vertices[:, 0] * 0.7).abs(), made.vertices[:, 1] * 0.5 + 0.5], 1)  # folded at x = 0
    return replace(made, uv=uv)


@pytest.mark.node
@pytest.mark.parametrize(("shape", "others"), [(laid_out, 0.0), (mirrored, 0.004)])
def test_they_are_mikktspace_s(shape: Callable[[], Mesh], others: float, tmp_path: Path) -> None:
    """All but those of fans that meet at a vertex without a common edge, along the fold: there it has two groups."""
    mesh = with_tangents(shape())
    assert mesh.tangents is not None and mesh.uv is not None
    wanted, mine = judge(mesh, tmp_path), mesh.tangents[mesh.faces]
    a, b, c = mesh.uv[mesh.faces].unbind(1)
    flat = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() < 1e-9  # no direction: any will do
    angle = torch.rad2deg((wanted[..., :3] * mine[..., :3]).sum(-1).clamp(-1, 1).acos())[~flat]
    assert float((angle > 0.1).float().mean()) <= others
    assert float((wanted[..., 3] == mine[..., 3])[~flat].float().mean()) == 1.0


def test_mirrored_charts_get_vertices_of_their_own() -> None:
    before = mirrored()
    made = with_tangents(before)
    assert made.tangents is not None and len(made.vertices) > len(before.vertices)
    assert torch.equal(made.vertices[made.faces], before.vertices[before.faces])
    right = made.vertices[made.faces].mean(1)[:, 0] > 0.05
    left = made.vertices[made.faces].mean(1)[:, 0] < -0.05
    seen = before.normals[before.faces].mean(1)[:, 2] > 0.3  # from the front: +x is right
    assert (made.tangents[made.faces][right & seen][..., 0] > 0).all()
    assert (made.tangents[made.faces][left & seen][..., 0] < 0).all()


def test_on_a_plane_they_are_the_picture_s_axes() -> None:
    flat = of(trimesh.creation.box((1, 1, 1e-3)).subdivide())
    normals = torch.zeros_like(flat.vertices)
    normals[:, 2] = 1
    uv = torch.stack([flat.vertices[:, 0] + 0.5, 0.5 - flat.vertices[:, 1]], 1)
    front = (flat.vertices[flat.faces][..., 2] > 0).all(1)
    made = tangents(flat.vertices, normals, uv, flat.faces[front])
    used = torch.unique(flat.faces[front])
    assert torch.allclose(made[used], torch.tensor([1.0, 0, 0, 1]).expand(len(used), -1), atol=1e-6)
