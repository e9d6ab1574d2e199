# SPDX-License-Identifier: Apache-2.0
"""Densities, backgrounds, light and seeds: each against a closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cuda_ext.march import Samples, composite
from dreamlab.core.cameras import turntable
from dreamlab.core.errors import InputError
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.triangles import scattered
from dreamlab.core.types import Mesh, Training
from renderers.field import density
from renderers.gaussian.seeds import from_field, from_points, on_surface
from renderers.gaussians import Gaussians, GaussianSettings
from renderers.light import shading
from renderers.light.background import Background, BackgroundSettings, harmonics
from renderers.light.shading import ShadingSettings


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def training(seed: int = 0) -> Training:
    return Training(Progress(1, 10), stream(seed))


# ---- densities ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", density.BIASES)
def test_a_bias_tells_its_own_slope(kind: str) -> None:
    points = (2 * torch.rand(50, 3, generator=stream(), dtype=torch.float64) - 1).requires_grad_()
    scale, deviation = density.BIAS_DEFAULTS[kind]
    value, slope = density.bias(kind, points, scale, deviation)
    if kind != "none":
        (expected,) = torch.autograd.grad(value.sum(), points)
        torch.testing.assert_close(slope.detach(), expected)
        centre = density.bias(kind, torch.zeros(1, 3), scale, deviation)[0]
        assert math.isclose(float(centre), scale, rel_tol=1e-4)
    else:
        assert not value.any() and not slope.any()


def test_volsdf_through_a_plane() -> None:
    """At the surface 1 / 2 beta; its integral from far away up to depth a inside is a / beta + e^(-a / beta) / 2."""
    beta, a = torch.tensor(0.05, dtype=torch.float64), 0.2
    assert math.isclose(float(density.volsdf(torch.zeros(1).double(), beta)), 10.0)
    distance = torch.linspace(2.0, -a, 400_001, dtype=torch.float64)
    sigma = density.volsdf(distance, beta)
    found = float(torch.trapezoid(sigma, -distance))
    assert math.isclose(found, a / 0.05 + 0.5 * math.exp(-a / 0.05), rel_tol=1e-6)


def test_neus_light_behind_a_plane_telescopes() -> None:
    """The light left after the intervals of a ray is Phi(last end) / Phi(first start), whatever their number."""
    for count in (7, 40):
        edges = torch.linspace(0, 1.0, count + 1)
        middle, width = (edges[1:] + edges[:-1]) / 2, edges[1:] - edges[:-1]
        cosine, sharp = torch.full((count,), -0.8), torch.tensor(12.0)
        distance = -0.8 * (middle - 0.45)
        sigma = density.neus(distance, cosine, sharp, width)
        seen = composite(
            sigma, torch.zeros(count, 1), Samples(torch.tensor([0, count]), edges[:-1], edges[1:]), stop=0.0
        )
        ends = torch.sigmoid(12.0 * -0.8 * (edges[[0, -1]] - 0.45))
        assert math.isclose(float(1 - seen.alpha), float(ends[1] / ends[0]), rel_tol=1e-3)


# ---- backgrounds ----------------------------------------------------------------------------------------------------
def test_harmonics_are_orthonormal() -> None:
    """Gauss-Legendre times trapezoid on the sphere is exact to this degree."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(8)
    z, w = torch.from_numpy(nodes), torch.from_numpy(weights)
    phi = torch.arange(16, dtype=torch.float64) * 2 * math.pi / 16
    ring = (1 - z**2).sqrt()[:, None]
    points = torch.stack([ring * phi.cos(), ring * phi.sin(), z[:, None].expand(-1, 16)], -1).reshape(-1, 3)
    area = (w[:, None] * 2 * math.pi / 16).expand(-1, 16).reshape(-1)
    values = harmonics(points)
    torch.testing.assert_close(values.T @ (area[:, None] * values), torch.eye(9, dtype=torch.float64))


def test_backgrounds_are_shared_in_a_group_and_give_way_by_chance() -> None:
    drawn = torch.rand(400, 3, generator=stream(1))
    rays = torch.nn.functional.normalize(torch.randn(400, 1, 1, 3, generator=stream(2)), dim=-1)
    sky = Background(BackgroundSettings(kind="environment", augment=constant(0.25), group=4), 3, stream())
    shown = sky.behind(rays, drawn, training(5))[:, 0, 0]
    plain = (shown == sky.plain(drawn)).all(-1)
    assert torch.equal(plain.reshape(-1, 4), plain[::4, None].expand(-1, 4))  # one coin per group
    assert abs(float(plain[::4].float().mean()) - 0.25) < 5 * (0.25 * 0.75 / 100) ** 0.5
    torch.testing.assert_close(shown[~plain], sky.colour(rays)[:, 0, 0][~plain])
    assert torch.equal(sky.plain(drawn)[1], drawn[0]) and torch.equal(sky.plain(drawn)[7], drawn[4])
    assert torch.equal(sky.behind(rays, drawn, None)[:, 0, 0], sky.plain(drawn))  # looking: the object stands free
    still = Background(BackgroundSettings(kind="solid"), 3, stream())
    torch.testing.assert_close(still.colour(rays), torch.full((400, 1, 1, 3), 0.5))
    assert set(still.groups()) == {"color"} and not Background(BackgroundSettings(), 3, stream()).groups()


# ---- light ----------------------------------------------------------------------------------------------------------
def test_lambert() -> None:
    light = shading.Shading(torch.tensor([[0.0, 0.0, 3.0]]), *torch.tensor([0.1, 0.9, 0.0]))
    angle = torch.tensor([0.0, 60.0, 120.0]).deg2rad()
    normal = torch.stack([angle.sin(), torch.zeros(3), angle.cos()], -1)
    colour = torch.tensor([[0.2, 0.4, 0.8]]).expand(3, 3)
    shown = light.apply(colour, normal, torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(shown, colour * torch.tensor([[1.0], [0.55], [0.1]]))


def test_modes_come_as_often_as_asked() -> None:
    s = ShadingSettings(lit=constant(0.75), textureless=constant(0.5), soft=True)
    t, drawn = training(3), []
    for _ in range(500):
        light = shading.draw(s, turntable(1), t)
        drawn.append((float(light.diffuse > 0), float(light.textureless), float(light.ambient + light.diffuse)))
    lit, blank, total = torch.tensor(drawn).T
    assert abs(float(lit.mean()) - 0.75) < 0.097 and abs(float(blank.mean()) - 0.375) < 0.109
    torch.testing.assert_close(total, torch.ones(500))
    assert not shading.wanted(ShadingSettings(), Progress(0, 1))


def test_where_lights_stand() -> None:
    poses = turntable(500).camera_to_world
    eye = torch.nn.functional.normalize(poses[:, :3, 3], dim=-1)
    normal, uniform = torch.randn(500, 3, generator=stream()), torch.rand(500, 3, generator=stream(1))
    near = shading.place("dreamfusion", poses, normal, uniform).norm(dim=-1)
    assert near.min() >= 0.8 and near.max() <= 1.5 + 1e-5
    lights = shading.place("magic3d", poses, normal, uniform)
    distance = lights.norm(dim=-1)
    torch.testing.assert_close(distance, 0.8 + 0.7 * uniform[:, 2])
    cosine = (lights * eye).sum(-1) / distance
    assert cosine.min() >= math.sin(math.radians(30)) - 1e-4  # on the camera's side


def test_lights_of_magic3d_stand_about_the_direction_to_the_eye_where_the_camera_looks_past_the_origin() -> None:
    """Eye at (0, 0, 3), turned by 40 degrees about its own up: only where it is counts, not where it looks."""
    c, s = math.cos(math.radians(40)), math.sin(math.radians(40))
    pose = torch.tensor([[c, 0.0, s, 0.0], [0.0, 1.0, 0.0, 0.0], [-s, 0.0, c, 3.0], [0.0, 0.0, 0.0, 1.0]])
    uniform = torch.tensor([[0.0, 0.5, 0.0], [0.25, 0.5, 1.0], [0.5, 1.0, 0.5], [0.125, 0.0, 0.0]])
    lights = shading.place("magic3d", pose.expand(4, 4, 4), torch.zeros(4, 3), uniform)
    root, low = math.sqrt(0.5), math.sqrt(0.75)
    # elevations of 60, 60, 90 and 30 degrees; azimuths of 0, 90, 180 and 45
    wanted = [[0.4, 0.0, 0.8 * low], [0.0, 0.75, 1.5 * low], [0.0, 0.0, 1.15], [0.8 * low * root] * 2 + [0.4]]
    torch.testing.assert_close(lights, torch.tensor(wanted), atol=1e-5, rtol=0)


# ---- seeds ----------------------------------------------------------------------------------------------------------
def square() -> Mesh:
    """Two triangles of 1 x 1 and one of a quarter of their area, elsewhere."""
    vertices = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [3, 0, 0], [3.5, 0, 0], [3, 0.5, 0.0]])
    colours = torch.zeros(7, 3)
    colours[4:, 1] = 1.0
    colours[:4, 0] = vertices[:4, 0]  # red grows with x
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6]]), colours, torch.zeros(7, 3))


def test_mesh_seeds_are_uniform_by_area_and_take_the_colour() -> None:
    mesh = square()
    seeds = on_surface(mesh, scattered(mesh.vertices, mesh.faces, 9000, stream()))
    small = seeds.points[:, 0] > 2
    assert abs(float(small.float().mean()) - 1 / 9) < 5 * (8 / 81 / 9000) ** 0.5
    inside = seeds.points[~small]
    assert seeds.colours is not None
    torch.testing.assert_close(seeds.colours[~small][:, 0], inside[:, 0])
    ranks = inside[:, :2].sort(0).values - ((torch.arange(len(inside)) + 0.5) / len(inside))[:, None]
    assert ranks.abs().max() < 2.23 / len(inside) ** 0.5


def test_field_seeds_lie_on_the_visible_side_of_what_is_dense() -> None:
    seeds = from_field(lambda p: 200.0 * (p.norm(dim=-1) < 0.6), lambda p: p.abs(), 1.0, 3000, stream(), cells=32)
    radius = seeds.points.norm(dim=-1)
    assert radius.min() > 0.6 - 3 * 0.0625 and radius.max() < 0.6 + 0.0625
    assert seeds.opacity is not None and seeds.opacity[radius < 0.6].min() > 0.5
    thin = from_field(lambda p: torch.full_like(p[:, 0], 2.0), lambda p: p.abs(), 1.0, 500, stream(), cells=8)
    torch.testing.assert_close(thin.opacity, 1 - torch.exp(-2.0 * thin.spacing))
    with pytest.raises(ValueError, match="empty"):
        from_field(lambda p: 0 * p[:, 0], lambda p: p, 1.0, 10, stream(), cells=8)


def test_gaussians_start_from_points_and_from_a_file(tmp_path: Path) -> None:
    import trimesh

    seeds = from_points(torch.rand(50, 3, generator=stream()), torch.full((50, 3), 0.25), 80, stream(1), jitter=0.01)
    scene = Gaussians(GaussianSettings(), stream(), seeds)
    assert len(scene.params["means"]) == 80
    torch.testing.assert_close(scene.params["logit_color"].detach().sigmoid(), torch.full((80, 3), 0.25))
    path = tmp_path / "ball.ply"
    trimesh.creation.icosphere(radius=7.0).apply_translation([5, 0, 0]).export(path)
    made = Gaussians(GaussianSettings(count=300, start="file", file=str(path)), stream())
    assert (made.params["means"].detach().norm(dim=-1) - 0.9).abs().max() < 0.03
    with pytest.raises(InputError, match="no such file"):
        Gaussians(GaussianSettings(start="file", file=str(tmp_path / "none.ply")), stream())
    shell = Gaussians(GaussianSettings(count=100, start="sphere", radius=0.4), stream())
    torch.testing.assert_close(shell.params["means"].detach().norm(dim=-1), torch.full((100,), 0.4))


def test_harmonics_of_gaussians_start_without_effect_and_learn() -> None:
    flat, curved = (Gaussians(GaussianSettings(count=60, sh_degree=d), stream()) for d in (0, 2))
    white, at = torch.ones(2, 3), Training(Progress(9, 10), stream())
    a = flat.render(turntable(2), 16, white)
    b = curved.render(turntable(2), 16, white, at)
    assert curved.degree == 2
    torch.testing.assert_close(a.rgb, b.rgb, atol=1e-6, rtol=1e-5)
    b.rgb.square().sum().backward()
    grad = curved.params["sh_rest"].grad
    assert grad is not None and (grad.abs().amax((0, 2)) > 0).all()
    curved.load_state_dict(flat.state_dict())
    assert curved.degree == 0 and not curved.params["sh_rest"].any()
