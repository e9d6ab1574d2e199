# SPDX-License-Identifier: Apache-2.0
"""A mesh whose corners move: they go to where the world has its surface, and what leaves is what was learnt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Training
from dreamlab.run.optim import Adam
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import Sketch
from renderers.gaussians import Gaussians
from renderers.mesh import TexturedMesh
from renderers.surface.clean import parts_of, signed_volumes
from renderers.surface.draw import Neighbours, vertex_normals
from renderers.surface.extraction import extract


def scene(**settings: object) -> TexturedMesh:
    chosen = {"texture": 64, "lr_vertices": constant(0.01), **settings}
    return TexturedMesh(TexturedMesh.Settings(**chosen), torch.Generator().manual_seed(0))  # type: ignore[arg-type]


def pictures(radius: float, cameras: Cameras, size: int) -> Tensor:
    """[B, S, S, 1] coverage of a true ball off the middle, by the world's own tracer."""
    sketch = Sketch()
    sketch.sphere("all", (0.1, 0.0, 0.0), radius)
    return draw(sketch.pack({"all": Finish("red")}, fit=None), cameras, size).alpha[0]


def trained(made: TexturedMesh, radius: float, steps: int) -> None:
    cameras = turntable(6, 20.0)
    wanted, optimiser = pictures(radius, cameras, 48), Adam(made)
    for step in range(steps):
        progress = Progress(step, steps)
        frames = made.render(cameras, 48, torch.zeros(6, 3), Training(progress, torch.Generator().manual_seed(step)))
        loss = 200 * (frames.alpha - wanted).square().mean() + 0.1 * made.penalty("laplacian", frames)
        loss.backward()
        healthy = optimiser.step(progress, torch.tensor(True), None)
        made.adapt(progress, frames, healthy)


def test_silhouettes_move_a_ball_to_where_the_world_has_it() -> None:
    made = scene()
    assert len(made.tangents) == len(made.atlas.uv)  # asked for once, and again below
    trained(made, 0.7, 60)
    corners = extract(made, 0).vertices
    away = (corners - torch.tensor([0.1, 0.0, 0.0])).norm(dim=-1)
    assert abs(float(away.mean()) - 0.7) < 0.01  # it began at 0.6 around the origin
    assert float(away.std()) < 0.015
    # The file's normals are those of where the corners are now.
    torch.testing.assert_close(made.normals, vertex_normals(made.surface.vertices, made.surface.faces))
    torch.testing.assert_close(made.surface.vertices, made.corners().detach())
    across = (made.tangents[:, :3] * made.normals[made.atlas.source]).sum(-1)
    torch.testing.assert_close(across, torch.zeros_like(across), atol=1e-5, rtol=0)


def test_without_a_rate_the_shape_stays() -> None:
    made = scene(lr_vertices=constant(0.0))
    before = made.surface.vertices.clone()
    trained(made, 0.7, 3)
    assert "shift" not in made.groups() and torch.equal(made.surface.vertices, before)


def test_what_is_spread_keeps_what_all_agree_on_and_flattens_what_one_says() -> None:
    made = scene()
    around, count = Neighbours.of(made.surface.faces, len(made.rest)), len(made.rest)
    same = torch.tensor([0.3, -0.2, 0.1]).expand(count, 3)
    torch.testing.assert_close(around.spread(same, 12), same)
    spike = torch.zeros(count, 1)
    spike[7] = 1.0
    found = around.spread(spike, 12)
    assert 0 < float(found.max()) < 0.1 and int((found > 0).sum()) > 20
    # By hand: one round leaves a half, and a half of a share of the rest.
    once, degree = around.spread(spike, 1), around.whole
    assert float(once[7]) == 0.5
    near = (once[:, 0] > 0).nonzero()[:, 0]
    assert torch.allclose(once[near[near != 7], 0], 1 / degree[near[near != 7]])


def test_a_state_brings_back_the_same_pictures_and_goes_on_from_them() -> None:
    made, cameras = scene(), turntable(2)
    trained(made, 0.7, 5)
    other = scene()
    other.load_state_dict({name: value.clone() for name, value in made.state_dict().items()})
    one, two = (each.render(cameras, 48, torch.zeros(2, 3)).rgb for each in (made, other))
    assert torch.equal(one, two) and torch.equal(made.rest, other.rest)
    trained(made, 0.7, 2)
    trained(other, 0.7, 2)
    assert torch.equal(made.corners(), other.corners())


def test_a_cloud_becomes_one_closed_surface_without_slivers_of_it() -> None:
    cloud = Gaussians(Gaussians.Settings(count=3000, opacity=0.8), torch.Generator().manual_seed(0))
    made = scene(faces=4000, resolution=48)
    made.adopt(cloud, torch.Generator().manual_seed(0))
    vertices, faces = made.surface.vertices, made.surface.faces
    assert len(faces) <= 4000 and int(parts_of(faces, len(vertices)).max()) == 0
    assert bool((made.around.whole > 0).all()) and float(signed_volumes(vertices, faces).sum()) > 0
    assert made.params["shift"].shape == vertices.shape and not made.params["shift"].detach().any()


@pytest.mark.parametrize("more", [{"shading": "montecarlo"}, {"asset": "x.safetensors"}])
def test_what_cannot_move_says_so(more: dict[str, object]) -> None:
    settings = TexturedMesh.Settings(lr_vertices=constant(0.01), **more)  # type: ignore[arg-type]
    assert "lr_vertices" in TexturedMesh.card(settings).complaint
