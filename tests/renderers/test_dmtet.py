# SPDX-License-Identifier: Apache-2.0
"""The tetrahedral scene: its start, its pictures, its penalties, subdivision, and a small reconstruction."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import Diverged
from dreamlab.core.schedules import Progress, ramp
from dreamlab.core.types import Training
from dreamlab.run.optim import Adam
from renderers.dmtet import DMTet, ellipsoid, sign_agreement
from renderers.surface.extraction import extract
from renderers.surface.views import compare


def scene(**settings: object) -> DMTet:
    made: DMTet = DMTet(DMTet.Settings(**{"resolution": 16, **settings}), torch.Generator().manual_seed(0))
    return made


def solid(made: DMTet) -> trimesh.Trimesh:
    mesh = extract(made, 0)
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def test_an_ellipsoid_is_closed_outward_and_of_the_right_volume() -> None:
    radii = (0.7, 0.5, 0.4)
    found = solid(scene(resolution=32, radii=radii))
    assert found.is_watertight and found.euler_number == 2
    assert found.volume == pytest.approx(4 / 3 * math.pi * math.prod(radii), rel=0.02)
    np.testing.assert_allclose(found.bounds, [[-r for r in radii], radii], atol=0.02)


def test_the_first_order_distance_is_exact_for_a_ball() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(ellipsoid(points, (0.6, 0.6, 0.6)), points.norm(dim=-1) - 0.6)
    assert float(ellipsoid(torch.zeros(1, 3), (0.3, 0.4, 0.5))) == pytest.approx(-0.3)


def test_it_stays_closed_when_everything_wants_to_be_inside() -> None:
    made = scene()
    with torch.no_grad():
        made.params["sdf"].fill_(-1.0)
        made.params["deform"].normal_(generator=torch.Generator().manual_seed(0))
    found = solid(made)
    assert found.is_watertight and found.volume > 0


@pytest.mark.parametrize(("shows", "channels"), [("color", 3), ("normal", 3), ("normal_mask", 4)])
def test_what_it_shows(shows: str, channels: int) -> None:
    made = scene(shows=shows, resolution=24, radii=(0.6, 0.6, 0.6))
    training = Training(Progress(0, 1), torch.Generator())
    cameras, gray = orbit([0.0, 90.0]), torch.full((2, 3), 0.5)
    with torch.no_grad():
        frames = made.render(cameras, 32, gray, training)
        looking = made.render(cameras, 32, gray)
    assert frames.rgb.shape == (2, 32, 32, channels) and looking.rgb.shape == (2, 32, 32, 3)
    middle = frames.rgb[:, 15:17, 15:17].mean((1, 2))
    towards = torch.tensor([[0.0, 0, 1], [1, 0, 0]])  # the front, and the right side seen from +X
    if shows == "normal":
        towards = torch.nn.functional.normalize(orbit([0.0, 90.0]).camera_to_world[:, :3, 3], dim=-1)
        torch.testing.assert_close(middle, (towards + 1) / 2, atol=0.03, rtol=0)
        assert (frames.rgb[:, 0, 0] == 0).all()
    if shows == "normal_mask":
        torch.testing.assert_close(middle[:, 3], torch.ones(2))
        assert (frames.rgb[:, 0, 0] == 0).all() and frames.rgb.min() < -0.3
    if shows == "color":
        torch.testing.assert_close(frames.rgb[:, 0, 0], gray)


def test_penalties() -> None:
    made = scene(resolution=24, radii=(0.6, 0.6, 0.6))
    training = Training(Progress(0, 1), torch.Generator())

    def measure() -> dict[str, float]:
        frames = made.render(orbit([0.0]), 16, torch.zeros(1, 3), training)
        return {name: float(made.penalty(name, frames).detach()) for name in made.penalties}

    smooth = measure()
    with torch.no_grad():
        noise = torch.randn(made.grid.count, generator=torch.Generator().manual_seed(0))
        made.params["sdf"].add_(0.5 * made.grid.cell * noise)
    rough = measure()
    assert smooth["normal_consistency"] < 0.02 and smooth["laplacian"] < 0.3 * made.grid.cell
    # The laplacian of this mesh is mostly its uneven triangles; noise adds to it.
    assert rough["normal_consistency"] > 10 * smooth["normal_consistency"]
    assert rough["laplacian"] > 1.05 * smooth["laplacian"] and rough["sdf_sign"] > 1.05 * smooth["sdf_sign"]
    # Cross entropy at zero distance is ln 2 per end, and grows with the size of a disagreement.
    assert float(sign_agreement(torch.tensor([[-1e-6, 1e-6]]))) == pytest.approx(2 * math.log(2), rel=1e-4)
    assert float(sign_agreement(torch.tensor([[-1.0, 2.0]]))) == pytest.approx(
        math.log1p(math.e) + math.log1p(math.e**2)
    )


def test_a_grid_of_twice_the_resolution_takes_over_the_surface() -> None:
    coarse = scene(radii=(0.7, 0.5, 0.4))
    with torch.no_grad():
        coarse.params["deform"].normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    fine = scene(resolution=32)
    fine.adopt(coarse, torch.Generator())
    assert solid(fine).volume == pytest.approx(solid(coarse).volume, rel=0.01)
    kept = compare(coarse, fine)
    assert kept.psnr > 35 and kept.iou > 0.98


def test_specks_and_bubbles_go_while_it_is_optimised() -> None:
    made = scene()
    clean = made.params["sdf"].detach().clone()
    points = made.grid.vertices()
    wrong = (points - torch.tensor([0.0, 0.0, 0.875])).norm(dim=-1) < 0.05
    wrong |= points.norm(dim=-1) < 0.15
    with torch.no_grad():
        made.params["sdf"].copy_(torch.where(wrong, -clean, clean))
    frames = made.render(orbit([0.0]), 8, torch.zeros(1, 3), Training(Progress(0, 100), torch.Generator()))
    made.adapt(Progress(10, 100), frames, torch.tensor(True))
    assert not torch.equal(made.params["sdf"], clean)
    made.adapt(Progress(49, 100), frames, torch.tensor(False))
    assert not torch.equal(made.params["sdf"], clean)
    made.adapt(Progress(49, 100), frames, torch.tensor(True))
    assert int(wrong.sum()) > 1 and torch.equal(made.params["sdf"], clean)


def test_nothing_left_is_said_and_shows_the_background() -> None:
    made = scene()
    with torch.no_grad():
        made.params["sdf"].fill_(1.0)
    frames = made.render(orbit([0.0]), 8, torch.tensor([[0.2, 0.4, 0.6]]))
    frames.rgb.sum().backward()
    torch.testing.assert_close(frames.rgb[0, 3, 3].detach(), torch.tensor([0.2, 0.4, 0.6]))
    with pytest.raises(Diverged, match="empty geometry"):
        extract(made, 0)


def test_a_file_as_its_start(tmp_path: Path) -> None:
    shape = trimesh.creation.torus(0.6, 0.25, major_sections=48, minor_sections=24)
    shape.export(tmp_path / "torus.ply")
    found = solid(scene(resolution=32, start="mesh", mesh=str(tmp_path / "torus.ply")))
    scale = 0.9 / 0.85
    assert found.euler_number == 0  # a hole
    assert found.volume == pytest.approx(shape.volume * scale**3, rel=0.05)


@pytest.mark.usefixtures("one_thread")  # where a fit of 200 steps ends depends on how many share a sum
def test_silhouettes_and_colours_of_a_ball_are_recovered() -> None:
    """From an ellipsoid to a smaller, shifted red ball, by pictures alone."""
    size, steps = 48, 200
    cameras = orbit([0.0, 60, 120, 180, 240, 300, 0, 180], [0.0, 20, -20, 0, 20, -20, 70, -70])
    truth = scene(resolution=24)
    points = truth.grid.vertices()
    with torch.no_grad():
        truth.params["sdf"].copy_((points - torch.tensor([0.15, 0.1, 0.0])).norm(dim=-1) - 0.45)
        truth.params["color.bias"].copy_(torch.tensor([2.0, -2.0, -2.0]))
        wanted = truth.render(cameras, size, torch.zeros(8, 3))
    made = scene(resolution=24, lr_sdf=ramp(0.02, 0.004))
    optimiser, g = Adam(made), torch.Generator().manual_seed(1)
    for i in range(steps):
        rows = torch.randperm(8, generator=g)[:4]
        frames = made.render(cameras[rows], size, torch.zeros(4, 3), Training(Progress(i, steps), g))
        loss = (frames.rgb - wanted.rgb[rows]).square().mean() + (frames.alpha - wanted.alpha[rows]).square().mean()
        (loss + 0.02 * made.penalty("sdf_sign", frames) + 0.1 * made.penalty("laplacian", frames)).backward()
        optimiser.step(Progress(i, steps), torch.tensor(True))
    kept = compare(truth, made)
    assert kept.iou > 0.93 and kept.psnr > 22
    assert solid(made).volume == pytest.approx(4 / 3 * math.pi * 0.45**3, rel=0.1)
