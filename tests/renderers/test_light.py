# SPDX-License-Identifier: Apache-2.0
"""Shading against integrals: quadrature over the whole sphere in float64, closed forms, and statistics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from renderers.light.environment import ENVIRONMENTS, directions, environment, resized, solid_angles, to_uv
from renderers.light.harmonics import COSINE_BANDS, cosine_harmonics
from renderers.light.montecarlo import Draws, frame, shade_montecarlo
from renderers.light.pbr import Material, brdf_cos, brdf_table, ggx
from renderers.light.rays import Boxes
from renderers.light.split_sum import Lighting, prefilter, shade


def points(count: int, seed: int = 0) -> tuple[Material, Tensor, Tensor]:
    """Random materials, normals and directions to the eye within 70 degrees of them."""
    g = torch.Generator().manual_seed(seed)
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1)
    across, _ = frame(normal)
    tilt = torch.rand(count, 1, generator=g) * 1.2
    made = Material(*(torch.rand(count, n, generator=g) for n in (3, 1, 1)))
    return made._replace(roughness=0.3 + 0.7 * made.roughness), normal, tilt.cos() * normal + tilt.sin() * across


def integral(material: Material, normal: Tensor, to_eye: Tensor, radiance: Tensor, specular: float = 1.0) -> Tensor:
    """[M, 3]: the rendering integral as a sum over the texels of `radiance` [H, W, 3]."""
    d, w = directions(*radiance.shape[:2]).reshape(1, -1, 3).double(), solid_angles(*radiance.shape[:2]).reshape(-1, 1)
    exact = Material(*(value.double() for value in material))
    value = brdf_cos(exact, normal[:, None].double(), to_eye[:, None].double(), d, specular)
    return (value * radiance.reshape(-1, 3) * w).sum(1).float()


def test_directions_and_uv_are_inverse_and_solid_angles_are_whole() -> None:
    d = directions(8, 16)
    expected = torch.stack(
        torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(16) + 0.5) / 16, indexing="ij"), -1
    )
    torch.testing.assert_close(to_uv(d), expected.flip(-1), atol=1e-6, rtol=0)
    assert float(solid_angles(8, 16).sum()) == pytest.approx(4 * math.pi, rel=1e-6)
    torch.testing.assert_close(to_uv(torch.tensor([[0.0, 0, 1], [-1, 0, 0]]))[:, 0], torch.tensor([0.5, 0.75]))


def test_harmonics_are_orthonormal_and_cosine_bands_are_right() -> None:
    d, w = directions(256, 512), solid_angles(256, 512)
    basis = cosine_harmonics(d.double()).reshape(-1, len(COSINE_BANDS))
    gram = basis.T @ (basis * w.reshape(-1, 1))
    torch.testing.assert_close(gram, torch.eye(len(COSINE_BANDS)).double(), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "mean", "worst"), [("studio", 0.01, 0.03), ("overcast", 0.01, 0.03), ("sunset", 0.02, 0.1)]
)
def test_irradiance_against_the_sum_over_all_texels(name: str, mean: float, worst: float) -> None:
    """Bands above 4 are left out: next to nothing for soft lights, up to a tenth of the mean for a lone small sun."""
    picture = environment(name)
    g = torch.Generator().manual_seed(1)
    normal = torch.nn.functional.normalize(torch.randn(64, 3, generator=g), dim=-1)
    d, w = directions(64, 128).reshape(-1, 3), solid_angles(64, 128).reshape(-1, 1)
    truth = ((normal @ d.T).clamp(min=0)[..., None] * (picture.reshape(-1, 3) * w)).sum(1) / math.pi
    got = Lighting.of([picture]).irradiance(normal, torch.zeros(64, dtype=torch.int64))
    error = (got - truth).abs() / truth.mean()
    assert error.mean() < mean and error.max() < worst, (error.mean(), error.max())


@pytest.mark.parametrize("level", [1, 4, 7])
def test_the_blur_is_a_weighted_mean_of_all_texels(level: int) -> None:
    small = resized(environment("night"), 32)
    d, w = directions(32, 64), solid_angles(32, 64)
    blurred = prefilter(small[None])[0, :, :, level - 1]
    for row, column in ((0, 0), (10, 17), (20, 50), (31, 63)):
        nl = (d @ d[row, column]).clamp(-1, 1)
        weight = ggx(((1 + nl) / 2).sqrt(), torch.tensor((level / 7) ** 2)) * nl.clamp(min=0) * w
        expected = (weight[..., None] * small).sum((0, 1)) / weight.sum()
        torch.testing.assert_close(blurred[row, column], expected, atol=2e-4, rtol=2e-3)


def test_microfacets_cover_their_area_once() -> None:
    d, w = directions(512, 16), solid_angles(512, 16)
    for alpha in (0.1, 0.4, 1.0):
        area = (ggx(d[..., 1].clamp(min=0), torch.tensor(alpha)) * d[..., 1].clamp(min=0) * w).sum()
        assert float(area) == pytest.approx(1, rel=2e-3)


def test_the_table_is_the_integral_of_the_brdf() -> None:
    """A + B is what a white metal reflects of a white world, A F0 + B for any F0."""
    table = brdf_table()
    white = torch.ones(256, 512, 3)
    for row, column in ((10, 5), (16, 20), (25, 2), (31, 31)):
        roughness, nv = row / 31, column / 31
        normal, to_eye = torch.tensor([[0.0, 1, 0]]), torch.tensor([[math.sqrt(1 - nv * nv), nv, 0.0]])
        material = Material(torch.tensor([[1.0, 0.5, 0.0]]), torch.full((1, 1), roughness), torch.ones(1, 1))
        a, b, _ = table[row, column]
        torch.testing.assert_close(integral(material, normal, to_eye, white)[0], torch.stack([a + b, a / 2 + b, b]),
                                   atol=4e-3, rtol=0)  # fmt: skip


@pytest.mark.parametrize("specular", [1.0, 0.0])
def test_split_sum_is_exact_in_a_white_world(specular: float) -> None:
    material, normal, to_eye = points(48)
    light = Lighting.of([environment("white")])
    got = shade(light, material, normal, to_eye, torch.zeros(48, dtype=torch.int64), specular)
    truth = integral(material, normal, to_eye, torch.ones(128, 256, 3), specular)
    torch.testing.assert_close(got, truth, atol=8e-3, rtol=0)


def test_monte_carlo_is_the_integral_within_its_noise() -> None:
    material, normal, to_eye = points(6, seed=3)
    pictures = [environment("studio"), environment("night")]
    light, which = Lighting.of(pictures), torch.tensor([0, 1] * 3)
    truth = torch.stack(
        [integral(Material(*(v[i : i + 1] for v in material)), normal[i : i + 1], to_eye[i : i + 1],
                  resized(pictures[int(which[i])], 256))[0] for i in range(6)]
    )  # fmt: skip
    g = torch.Generator().manual_seed(4)
    origin = torch.zeros(6, 3)
    tries = torch.stack(
        [shade_montecarlo(light, material, origin, normal, to_eye, which, None, g, Draws(32, 32)) for _ in range(64)]
    )
    noise = tries.std(0) / 8
    assert ((tries.mean(0) - truth).abs() < 4 * noise + 0.004 * truth).all()  # 4 sigma, and bilinear against texels


def test_shadows_take_what_a_wall_hides() -> None:
    """A floor beside a wall much higher than all else sees half of a white world: half the light."""
    wall = torch.tensor([[0.1, -1e3, -1e3], [0.1, -1e3, 1e3], [0.1, 1e3, 0.0], [0.1, 1e3, 1e3]])
    boxes = Boxes.over(wall * torch.tensor([1.0, 1, 10]), torch.tensor([[0, 1, 2], [1, 3, 2]]))
    material = Material(torch.ones(1, 3), torch.ones(1, 1), torch.zeros(1, 1))
    up, light = torch.tensor([[0.0, 1, 0]]), Lighting.of([environment("white")])
    arguments = (light, material, torch.zeros(1, 3), up, up, torch.zeros(1, dtype=torch.int64))
    g = torch.Generator().manual_seed(0)
    lit = shade_montecarlo(*arguments, boxes, g, Draws(4096, 16), specular=0.0)
    torch.testing.assert_close(lit, torch.full((1, 3), 0.5), atol=0.02, rtol=0)


def test_rays_against_every_triangle_in_float64() -> None:
    g = torch.Generator().manual_seed(2)
    vertices = torch.randn(90, 3, generator=g)
    faces = torch.arange(90).reshape(30, 3)
    vertices = vertices[faces].mean(1, keepdim=True).add(0.3 * torch.randn(30, 3, 3, generator=g)).reshape(-1, 3)
    origins = 2 * torch.randn(500, 3, generator=g)
    towards = torch.nn.functional.normalize(torch.randn(500, 3, generator=g) - origins, dim=-1)
    towards[0], towards[1] = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, -1, 0])
    corner = vertices.double()[faces]
    o, d = origins.double()[:, None], towards.double()[:, None]
    system = torch.stack([corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]], -1)[None].expand(500, -1, -1, -1)
    solved = torch.linalg.solve(torch.cat([system, -d.expand(-1, 30, -1)[..., None]], -1), o - corner[:, 0])
    u, v, t = solved.unbind(-1)
    truth = ((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-4)).any(1)
    assert 50 < int(truth.sum()) < 450
    assert torch.equal(Boxes.over(vertices, faces).blocked(origins, towards), truth)


def test_gradients_reach_material_normal_and_environment() -> None:
    """Finite differences in float32 along a random direction; the lookups are piecewise smooth."""
    material, normal, to_eye = points(8, seed=5)
    picture = environment("studio")
    leaves = [*material, normal, resized(picture, 16)]

    def value(base: Tensor, roughness: Tensor, metallic: Tensor, n: Tensor, sky: Tensor) -> Tensor:
        n = torch.nn.functional.normalize(n, dim=-1)
        shown = shade(
            Lighting.of([sky]), Material(base, roughness, metallic), n, to_eye, torch.zeros(8, dtype=torch.int64)
        )
        return shown.double().sum()

    g = torch.Generator().manual_seed(6)
    for i, leaf in enumerate(leaves):
        step = torch.randn(leaf.shape, generator=g) * 3e-3
        moved = [*leaves]
        moved[i] = leaf.clone().requires_grad_()
        value(*moved).backward()
        along = (moved[i].grad.double() * step).sum()
        up, down = ([*leaves[:i], leaf + s * step, *leaves[i + 1 :]] for s in (1, -1))
        assert float(along) == pytest.approx(float(value(*up) - value(*down)) / 2, rel=0.04, abs=1e-4), i


def test_environments_by_name_and_wrong_names() -> None:
    for name in ENVIRONMENTS:
        picture = environment(name)
        assert picture.shape == (64, 128, 3) and bool((picture >= 0).all()), name
        mean = (resized(picture, 16) * solid_angles(16, 32)[..., None]).sum()
        assert float(mean) == pytest.approx(float((picture * solid_angles(64, 128)[..., None]).sum()), rel=1e-4)
    with pytest.raises(InputError, match="did you mean"):
        environment("studo")
