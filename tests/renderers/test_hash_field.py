# SPDX-License-Identifier: Apache-2.0
"""The field against closed forms: a sphere it starts as, slopes by finite differences in float64, coarse to fine,
culling that changes nothing, exact resume; and the moving field."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.cameras import Cameras, OrbitSettings, fixed_orbit, turntable
from dreamlab.core.schedules import Progress, constant, ramp
from dreamlab.core.types import Training
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.optim import Adam
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from renderers.field import volume
from renderers.field4d import Field4D, MovingFieldSettings
from renderers.hash_field import FieldSettings, HashField
from renderers.light.shading import ShadingSettings
from renderers.surface.extraction import extract

SMALL: dict[str, Any] = {
    "levels": 4, "log2_entries": 9, "base": 4, "finest": 16, "hidden": 8, "occupancy": 16, "step": 0.04,
    "active": constant(4),
}  # fmt: skip


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(**settings: Any) -> HashField:
    return HashField(FieldSettings(**{**SMALL, **settings}), stream())


def rough(field: HashField, size: float = 0.3) -> HashField:
    """Features large enough to matter."""
    with torch.no_grad():
        field.params["table"].copy_(size * torch.randn(field.params["table"].shape, generator=stream(9)))
        field._refresh(0)
    return field


def training(progress: float = 0.5) -> Training:
    return Training(Progress(int(100 * progress), 100), stream(3))


def sphere_views(size: int, radius: float) -> tuple[Tensor, Tensor]:
    """Which pixels of two turntable cameras see a sphere, and the camera z of what they see."""
    eyes, rays = turntable(2).rays(size, size)
    along = (rays * -eyes[:, None, None]).sum(-1)
    inside = along**2 - (eyes.square().sum(-1)[:, None, None] - radius**2)
    way = along - inside.clamp(min=0).sqrt()
    ahead = -turntable(2).camera_to_world[:, :3, 2]
    return inside > 0, way * torch.einsum("bhwi,bi->bhw", rays, ahead)


@pytest.mark.parametrize("density", ["volsdf", "neus"])
def test_a_distance_field_starts_as_a_sphere(density: str) -> None:
    field = small(density=density, beta=0.01, step=0.01)
    frames = field.render(turntable(2), 32, torch.ones(2, 3))
    hit, depth = sphere_views(32, 0.5)
    # VolSDF's haze: a ray that passes at d takes half its light where sqrt(2 pi r beta) e^(-d / beta) / 2 beta = log 2.
    haze = 0.01 * math.log((2 * math.pi * 0.5 * 0.01) ** 0.5 / (2 * 0.01 * math.log(2)))
    outline, _ = sphere_views(32, 0.5 + (haze if density == "volsdf" else 0.0))
    wrong = ((frames.alpha[..., 0] > 0.5) != outline).sum()
    assert wrong <= 12  # of 250 pixels a view; those on the outline
    sure = hit & (frames.alpha[..., 0] > 0.99)
    assert (frames.depth[..., 0] - depth)[sure].abs().mean() < 0.03
    eyes, rays = turntable(2).rays(32, 32)
    assert frames.normal is not None
    ahead = -turntable(2).camera_to_world[:, :3, 2]
    cosine = torch.einsum("bhwi,bi->bhw", rays, ahead)[..., None]
    true_normal = (eyes[:, None, None] + rays * depth[..., None] / cosine) / 0.5
    assert ((frames.normal * true_normal).sum(-1)[sure] > 0.97).float().mean() > 0.95
    assert float(field.penalty("eikonal", frames).detach()) < 1e-3


def test_the_mesh_of_a_sphere_is_a_sphere() -> None:
    import trimesh

    mesh = extract(small(density="volsdf"), 48)
    shape = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert shape.is_watertight and math.isclose(shape.volume, 4 / 3 * math.pi * 0.125, rel_tol=0.02)
    assert ((mesh.vertices / 0.5 * mesh.normals).sum(-1) > 0.98).all()


@pytest.mark.parametrize("density", ["softplus", "volsdf"])
def test_analytic_normals_are_the_slope_by_finite_differences(density: str) -> None:
    """float64, on the twins: the direction of -grad sigma (or grad distance) and the distance's slope itself."""
    field = rough(small(density=density, normals="analytic", smoothstep=True))
    field.params = {name: value.detach().double().requires_grad_() for name, value in field.params.items()}
    points = (2 * torch.rand(40, 3, generator=stream(1)) - 1).double() * 0.8
    shot = field.shot(points, None, None, True, None)
    h = 1e-6

    def value(where: Tensor) -> Tensor:
        raw = field.raw(where)
        return raw if field.distance else -field.sigma(raw)

    with torch.no_grad():
        slope = torch.stack([(value(points + h * e) - value(points - h * e)) / (2 * h) for e in torch.eye(3)], -1)
    assert shot.normal is not None
    steep = slope.norm(dim=-1) > 1e-3  # where differences have digits left
    expected = torch.nn.functional.normalize(slope, dim=-1)
    torch.testing.assert_close(shot.normal.detach()[steep], expected[steep], atol=1e-6, rtol=1e-6)
    assert steep.sum() > 20
    if shot.slope is not None:
        torch.testing.assert_close(shot.slope.detach(), slope, atol=1e-7, rtol=1e-6)
        loss = ((shot.slope.norm(dim=-1) - 1) ** 2).sum()
        (grad,) = torch.autograd.grad(loss, field.params["density.out"])
        with torch.no_grad():
            field.params["density.out"][0, 3] += h
        ahead = field.shot(points, None, None, True, None).slope
        assert ahead is not None
        found = (((ahead.norm(dim=-1) - 1) ** 2).sum() - loss) / h
        torch.testing.assert_close(grad[0, 3], found.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["finite", "central"])
def test_difference_normals_agree_with_the_analytic_ones(kind: str) -> None:
    exact = small(normals="analytic", smoothstep=True)
    close = small(normals=kind, smoothstep=True, epsilon=0.002)
    points = torch.nn.functional.normalize(torch.randn(60, 3, generator=stream(2)), dim=-1) * 0.45
    a, b = (f.shot(points, None, None, True, None).normal for f in (exact, close))
    assert a is not None and b is not None and ((a * b).sum(-1) > 0.999).all()


def test_render_gradients_by_finite_differences_in_float64() -> None:
    """Through march, encoding, heads and compositing on the twins; the intervals do not depend on the parameters."""
    field = rough(small(samples_per_ray=60))
    field.params = {name: value.detach().double().requires_grad_() for name, value in field.params.items()}
    cameras = turntable(1).to(dtype=torch.float64)
    weights = torch.rand(1, 6, 6, 3, generator=stream(4)).double()

    def loss() -> Tensor:
        frames = field.render(cameras, 6, torch.zeros(1, 3).double())
        return (frames.rgb * weights).sum() + (frames.alpha * weights[..., :1]).sum()

    field.params["density.hidden"].grad = None
    loss().backward()
    for name, place in (("density.hidden", (2, 3)), ("color.out", (1, 4)), ("table", (37, 1))):
        value = field.params[name]
        grad = value.grad[place]  # type: ignore[index]
        h, ends = 1e-6, []
        for side in (1, -1):
            with torch.no_grad():
                value[place] += side * h
            ends.append(loss().detach())
            with torch.no_grad():
                value[place] -= side * h
        torch.testing.assert_close(grad, (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-8)


def test_what_cannot_be_seen_is_left_out_unnoticed() -> None:
    field = rough(small(bias_deviation=0.7), 0.05)
    with torch.no_grad():
        thin = field.render(turntable(2), 24, torch.ones(2, 3)).rgb
        field.settings = replace(field.settings, samples_per_ray=60)  # a fixed number: nothing is left out
        full = field.render(turntable(2), 24, torch.ones(2, 3)).rgb
    assert (thin - full).abs().max() < 2e-3


def test_levels_come_in_one_after_another() -> None:
    field = small(active=ramp(1, 4))
    for progress, active in ((0.0, 1), (0.5, 2), (0.99, 3)):
        frames = field.render(turntable(1), 12, torch.ones(1, 3), training(progress))
        frames.rgb.sum().backward()
        grad = field.params["table"].grad
        assert grad is not None and field.active == active
        rows = field.grid.offsets
        assert grad[: rows[active]].abs().max() > 0 and not grad[rows[active] :].any()
        field.params["table"].grad = None


def test_a_lit_step_needs_normals_and_shades() -> None:
    lit = ShadingSettings(lit=constant(1.0), textureless=constant(1.0))
    with pytest.raises(ValueError, match="needs normals"):
        small(shading=lit).render(turntable(1), 12, torch.ones(1, 3), training())
    field = small(shading=lit, normals="analytic")
    frames = field.render(turntable(1), 16, torch.zeros(1, 3), training())
    seen = frames.alpha[..., 0] > 0.99
    gray = frames.rgb[seen]
    torch.testing.assert_close(gray[:, 0], gray[:, 1], atol=1e-5, rtol=1e-4)  # white, shaded
    assert gray.min() >= 0.09 and gray.max() - gray.min() > 0.2


def test_a_latent_field_has_four_channels_and_a_picture_to_look_at() -> None:
    frames = small(latent=True).render(turntable(1), 12, torch.ones(1, 3))
    assert frames.extra["latent"].shape == (1, 12, 12, 4) and frames.rgb.shape == (1, 12, 12, 3)
    corner = frames.alpha[0, 0, 0, 0]
    assert corner == 0
    torch.testing.assert_close(frames.rgb[0, 0, 0], torch.full((3,), 0.5))


def test_penalties_by_their_definitions() -> None:
    field = rough(small(normals="analytic"))
    frames = field.render(turntable(1), 10, torch.ones(1, 3))
    e = {name: value.detach().double() for name, value in frames.extra.items()}
    rays = range(100)
    variance, facing = [], 0.0
    for r in rays:
        mine = e["ray"] == r
        w, t = e["weights"][mine], e["t"][mine]
        if len(w) and float(w.sum()) > 0.5:
            mean = (w * t).sum() / w.sum()
            variance.append(float((w * (t - mean) ** 2).sum() / w.sum()))
        away = (e["normals"][mine] * e["along"][mine]).sum(-1).clamp(min=0)
        facing += float((w * away**2).sum())
    shown = int((e["ray_alpha"] > 0).sum())
    found = {name: float(field.penalty(name, frames).detach()) for name in ("z_variance", "orient", "entropy")}
    assert math.isclose(found["z_variance"], sum(variance) / len(variance), rel_tol=2e-3)
    assert math.isclose(found["orient"], facing / shown, rel_tol=1e-3, abs_tol=1e-9)
    w = e["weights"].clamp(1e-5, 1 - 1e-5)
    bits = -(w * w.log2() + (1 - w) * (1 - w).log2()).mean()
    assert math.isclose(found["entropy"], float(bits), rel_tol=1e-4)
    with pytest.raises(ValueError, match="volsdf or neus"):
        field.penalty("eikonal", frames)


def test_occupancy_follows_the_density() -> None:
    field = small()
    cells = volume.refresh_points(16, field.bounds, 0, torch.device("cpu"))
    inside = (cells.norm(dim=-1) < 0.45).reshape(16, 16, 16)
    outside = (cells.norm(dim=-1) > 0.75).reshape(16, 16, 16)
    assert field.occupied[inside].all() and not field.occupied[outside].any()
    assert all(
        ((volume.refresh_points(4, field.bounds, turn, cells.device) + 1) / 0.5 % 1 > 0).all() for turn in (1, 2)
    )


RECIPE = """
prompt: a rocking red mushroom with a white stem
stages:
  - name: fit
    scene:
      kind: {kind}
      levels: 3
      log2_entries: 8
      base: 4
      finest: 12
      hidden: 8
      occupancy: 10
      refresh: 4
      step: 0.08
      active: {{from: 1, to: 3}}
      background: {{kind: environment}}
      {more}
    terms: [{{guidance: truth, system: photometric}}]
    regularisers: {{distortion: 0.01}}
    steps: 12
    views: 2
    size: 12
    cameras: {{fixed: 6, moving: true}}
"""
CASES = {
    "field": "shading: {lit: 0.7}\n      normals: analytic\n      noise: 0.1",
    "field4d": "moments: 3\n      temporal_log2: 6",
}


@pytest.mark.parametrize("kind", CASES)
def test_exact_resume(kind: str) -> None:
    def built() -> Any:
        return Assembler(recipe.load(RECIPE.format(kind=kind, more=CASES[kind]), TABLES), "cpu").stage(0)

    ring, whole, again = Ring(METRICS, 100, "cpu"), built(), built()
    for i in range(12):
        if i == 7:
            for part in ("scene", "optimiser", "streams"):
                state = getattr(whole, part).state_dict()
                getattr(again, part).load_state_dict({name: value.clone() for name, value in state.items()})
        step(whole, i, ring)
    for i in range(7, 12):
        step(again, i, ring)
    assert all(row["healthy"] for row in ring.drain())
    ours, theirs = whole.scene.state_dict(), again.scene.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def moving(**settings: Any) -> Field4D:
    return Field4D(MovingFieldSettings(**{**SMALL, "moments": 4, "temporal_log2": 8, **settings}), stream())


def test_a_moving_field_starts_still_and_time_only_moves_its_own_table() -> None:
    field, still = moving(), small()
    cameras = replace(turntable(3), time=torch.tensor([0.0, 1 / 3, 0.5]))
    white = torch.ones(3, 3)
    torch.testing.assert_close(field.render(cameras, 16, white).rgb, still.render(cameras, 16, white).rgb)
    frames = field.render(cameras[1:2], 16, white[:1])  # exactly on knot 1
    frames.rgb.sum().backward()
    grad = field.params["temporal"].grad
    assert grad is not None and grad[1].abs().max() > 0 and grad[[0, 3]].abs().max() == 0
    assert grad[2].abs().max() < 1e-5 * grad[1].abs().max()


def test_a_batch_of_times_equals_its_views_one_by_one() -> None:
    field = rough(moving(normals="analytic"))
    with torch.no_grad():
        field.params["temporal"].copy_(0.3 * torch.randn(field.params["temporal"].shape, generator=stream(5)))
        for turn in range(4):
            field._refresh(turn)
    cameras = replace(turntable(3), time=torch.tensor([0.9, 0.1, 0.5]))
    together = field.render(cameras, 12, torch.ones(3, 3))
    with torch.no_grad():
        alone = field.render(cameras, 12, torch.ones(3, 3))  # without gradients, views are drawn one at a time
    torch.testing.assert_close(together.rgb.detach(), alone.rgb, atol=1e-6, rtol=1e-5)
    assert together.normal is not None and alone.normal is not None
    torch.testing.assert_close(together.normal.detach(), alone.normal, atol=1e-5, rtol=1e-4)
    assert (alone.rgb[0] - field.render(cameras[:1], 12, torch.ones(1, 3)).rgb[0]).abs().max() < 1e-5


def test_a_still_field_becomes_a_moving_one() -> None:
    still, field = rough(small()), moving(frozen=True)
    field.load_state_dict(still.state_dict())
    assert set(field.groups()) == {"temporal"}
    assert torch.equal(
        field.render(turntable(1), 12, torch.ones(1, 3)).rgb, still.render(turntable(1), 12, torch.ones(1, 3)).rgb
    )
    with pytest.raises(ValueError, match="must be equal"):
        small(levels=3).load_state_dict(still.state_dict())


BALL, RADIUS = (0.1, -0.05, 0.0), 0.6


def ball_pictures(cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """A ball coloured by its normals over white, and its mask, from the hits of the rays."""
    eyes, rays = cameras.rays(size, size)
    away = eyes[:, None, None] - torch.tensor(BALL)
    along, rest = (rays * away).sum(-1), away.square().sum(-1) - RADIUS**2
    inside = along**2 - rest
    normal = (away + rays * (-along - inside.clamp(min=0).sqrt())[..., None]) / RADIUS
    hit = (inside > 0)[..., None]
    return torch.where(hit, 0.5 + 0.4 * normal, torch.ones(())), hit.float()


@pytest.mark.parametrize("density", ["volsdf", "neus"])
def test_a_distance_field_finds_the_ball_it_is_shown(density: str) -> None:
    """From a smaller ball elsewhere, with the eikonal penalty: centre, radius and a slope of one.

    VolSDF's haze is part of the picture: a ray that passes a ball of radius r at distance d meets the optical depth
    exp(-d / beta) sqrt(2 pi r beta) / (2 beta). Half the light is stopped where that is ln 2, so the ball in the
    field is smaller than the one in the pictures by that d, which goes to 0 with beta.
    """
    settings = {"step": 0.06, "sphere": 0.35, "beta": 0.1, "hidden": 16, "log2_entries": 10, "occupancy": 24}
    rates = {
        "lr_table": ramp(0.01, 0.001, curve="exp"),
        "lr_heads": ramp(0.005, 0.0005, curve="exp"),
        "lr_beta": constant(0.015),
    }
    field = small(density=density, refresh=8, **settings, **rates)
    optimiser, draw = Adam(field), stream(1)
    cameras = fixed_orbit(OrbitSettings(distance=(3.2, 3.2), fovy_deg=(42.0, 42.0), elevation_deg=(-60.0, 75.0)), 16)
    for i in range(300):
        progress = Progress(i, 300)
        views = cameras[torch.randint(16, (2,), generator=draw)]
        frames = field.render(views, 32, torch.ones(2, 3), Training(progress, draw))
        rgb, alpha = ball_pictures(views, 32)
        eikonal = field.penalty("eikonal", frames)
        ((frames.rgb - rgb).square().mean() + (frames.alpha - alpha).square().mean() + 0.1 * eikonal).backward()
        optimiser.step(progress, torch.tensor(True))
        field.adapt(progress, frames, torch.tensor(True))
    beta = float(field.params["beta"].detach().exp())
    haze = beta * math.log(math.sqrt(2 * math.pi * RADIUS * beta) / (2 * beta * math.log(2)))
    away = extract(field, 32, by_pictures=False).vertices - torch.tensor(BALL)
    radius = away.norm(dim=-1)
    assert beta < 0.02 and float(eikonal.detach()) < 0.02
    assert float(radius.mean()) == pytest.approx(RADIUS - (haze if density == "volsdf" else 0), abs=0.01)
    assert float((radius - radius.mean()).abs().mean()) < 0.02 and away.mean(0).abs().max() < 0.03
