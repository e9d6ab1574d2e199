# SPDX-License-Identifier: Apache-2.0
"""The world's light on a surface, and what surfaces are made of by pictures under it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_ext.reference import sdf
from dreamlab.core.safemath import linear_to_srgb
from dreamlab.core.types import PLAIN
from dreamlab.toybox.colours import MATERIALS
from dreamlab.toybox.draw import Light
from renderers.light.lamp import LampLight, factors, lit, shade, unlit
from renderers.light.pbr import Material
from renderers.light.recover import recover
from renderers.surface.draw import Surface
from renderers.surface.regions import regions
from tests.renderers.solids import ball

VIEWS = 12
BASES = torch.tensor([[0.6, 0.02, 0.02], [0.9, 0.6, 0.02], [0.3, 0.3, 0.3]])


def unit(count: int, seed: int) -> Tensor:
    drawn = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


def test_shading_is_the_worlds_where_nothing_is_occluded() -> None:
    normal, to_eye = unit(500, 0), unit(500, 1)
    chance = torch.rand(500, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    base, rough, metal = chance.split([3, 1, 1], 1)
    finish = normal.new_zeros(1, 500, sdf.PART)
    finish[0, :, [sdf.ROUGHNESS, sdf.METALLIC]] = torch.cat([rough, metal], 1)
    light = Light().packed().double()
    theirs = sdf.shade(base[None], finish, normal[None], to_eye[None], normal.new_ones(1, 500), light)[0]
    torch.testing.assert_close(shade(Material(base, rough, metal), normal, to_eye), theirs, rtol=1e-6, atol=1e-7)


def test_a_matte_colour_is_freed_of_its_light() -> None:
    """Looked at straight, up to the little gloss that roughness 0.9 has (at most 0.008 of linear light)."""
    normal = unit(200, 0)
    base = 0.8 * torch.rand(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rough, metal = normal.new_tensor(MATERIALS["matte"])
    back = unlit(shade(Material(base, rough, metal), normal, normal), normal)
    assert float((back - base).abs().max()) < 0.02


def pixels(materials: list[tuple[float, float]], astray: float = 0.0) -> tuple[Tensor, Tensor, Tensor, LampLight]:
    """A ball for every material as VIEWS cameras see it: colours, ball, view, and its light by normals that are off."""
    seen, region, view, lights = [], [], [], []
    for i, (rough, metal) in enumerate(materials):
        for k in range(VIEWS):
            normal, eye = unit(1500, 7 * k + i), unit(1, 1000 + k)
            eye = (eye * torch.tensor([1.0, 0.0, 1.0]) + torch.tensor([0.0, 0.4, 0.0])).expand(1500, 3)
            eye = torch.nn.functional.normalize(eye, dim=-1)
            normal = normal[(normal * eye).sum(-1) > 0.2]
            eye = eye[: len(normal)]
            scale, offset = factors(lit(normal, eye), rough, metal)
            seen.append(linear_to_srgb((BASES[i] * scale + offset).clamp(0, 1)))
            bent = torch.nn.functional.normalize(normal + astray * unit(len(normal), 5000 + k), dim=-1)
            lights.append(lit(bent, eye))
            region.append(torch.full((len(normal),), i))
            view.append(torch.full((len(normal),), k))
    light = LampLight(*(torch.cat(each).float() for each in zip(*lights, strict=True)))
    return torch.cat(seen).float(), torch.cat(region), torch.cat(view), light


@pytest.mark.parametrize("astray", [0.0, 0.12])
def test_the_worlds_three_materials_are_told_apart(astray: float) -> None:
    """Also where normals are off by 7 degrees, more than the gloss lobe is wide."""
    materials = list(MATERIALS.values())
    seen, region, view, light = pixels(materials, astray)
    found = recover(seen, region, view, 3, light)
    for i, (rough, metal) in enumerate(materials):
        assert abs(float(found.roughness[i]) - rough) < 0.11 and float(found.metallic[i]) == metal
        error = linear_to_srgb(found.base[i].clamp(0, 1)) - linear_to_srgb(BASES[i])
        assert float(error.abs().max()) < (0.01 if astray == 0 else 0.03)


def test_pixels_of_something_else_do_not_pass_for_gloss() -> None:
    """A twentieth of a red matte ball's pixels show blue, as beside a part whose border is not where it should be."""
    seen, region, view, light = pixels([MATERIALS["matte"]])
    other = torch.rand(len(seen), generator=torch.Generator().manual_seed(0)) < 0.05
    seen[other] = torch.tensor([0.1, 0.3, 0.9])
    found = recover(seen, region, view, 1, light)
    assert float(found.roughness) > 0.75 and float(found.metallic) == 0


def test_where_no_highlight_could_be_seen_nothing_is_claimed() -> None:
    """Of a glossy ball those pixels alone that look away from the lobe, which say that it is not so rough that the lobe
    reaches them (0.8 would, 0.6 does not), and no more; and a region that nobody saw."""
    seen, region, view, light = pixels([MATERIALS["glossy"]])
    away = light.facing[:, 0] < 0.6
    rest = LampLight(*(each[away] for each in light))
    found = recover(seen[away], region[away], view[away], 2, rest)
    assert found.roughness.tolist() == pytest.approx([0.6, PLAIN[0]]) and found.metallic.tolist() == [PLAIN[1]] * 2


def test_regions_are_of_one_colour_and_one_piece() -> None:
    """A ball: red above, blue below, three red spots in the blue, of which two are too small to be regions but
    together."""
    mesh = ball(subdivisions=4)
    middle = torch.nn.functional.normalize(mesh.vertices[mesh.faces].mean(1), dim=-1)
    red = middle[:, 1] > 0
    large, small, other = torch.tensor([[0.0, -1.0, 0.0], [0.0, -0.6, 0.8], [0.0, -0.6, -0.8]])
    red |= (middle @ large > 0.9) | (middle @ small > 0.995) | (middle @ other > 0.995)
    noise = 0.02 * torch.randn(len(red), 3, generator=torch.Generator().manual_seed(0))
    colours = torch.where(red[:, None], torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.8])) + noise
    surface = Surface.of(mesh.vertices, mesh.faces)
    found = regions(surface.vertices, surface.faces, surface.neighbours, colours)
    names = {found[red & (middle[:, 1] > 0)].unique().tolist()[0], *found[middle @ large > 0.92].unique().tolist()}
    assert len(names) == 2 and len(found[~red].unique()) == 1
    assert not names & set(found[~red].tolist()) and not names & set(found[middle @ small > 0.996].tolist())
    specks = found[(middle @ small > 0.996) | (middle @ other > 0.996)]
    assert len(specks.unique()) == 1 and found.unique().tolist() == list(range(4))
