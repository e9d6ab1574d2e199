# SPDX-License-Identifier: Apache-2.0
"""Shading against Mitsuba 3, an independent renderer: a ball of known material under a known environment.

Mitsuba's metals mask by the product of two Smith terms, glTF by the correlated one; metals are compared with
Mitsuba's masking on both sides. The split sum has a bound of its own: n = v = r and one table.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import orbit
from renderers.light.environment import environment, resized
from renderers.light.hdr import read_hdr
from renderers.light.montecarlo import Draws, shade_montecarlo
from renderers.light.pbr import Material
from renderers.light.split_sum import Lighting, shade

mi: Any = pytest.importorskip("mitsuba", reason="needs the package mitsuba (pip install mitsuba)")
mi.set_variant("scalar_rgb")
SIZE, RADIUS, DISTANCE, FOVY = 40, 0.8, 3.0, 36.0


@lru_cache(maxsize=2)
def rendered(kind: str, value: float, name: str, samples: int) -> tuple[Tensor, Tensor]:
    """Linear radiance [SIZE, SIZE, 3] of a ball, and the noise of each pixel's mean (from two halves)."""
    bsdf = {"type": "diffuse", "reflectance": {"type": "rgb", "value": value}}
    if kind == "metal":
        bsdf = {"type": "roughconductor", "material": "none", "distribution": "ggx", "alpha": value**2}
    picture = environment(name)
    pose = orbit([25.0], 15.0, DISTANCE, FOVY).camera_to_world[0].numpy().astype(np.float64)
    flip = pose @ np.diag([-1.0, 1, -1, 1])  # Mitsuba looks along +Z with +X to the left
    scene = mi.load_dict({
        "type": "scene",
        "integrator": {"type": "direct", "hide_emitters": True},
        "sensor": {
            "type": "perspective", "fov": FOVY, "fov_axis": "y", "to_world": mi.ScalarTransform4f(flip.tolist()),
            "film": {"type": "hdrfilm", "width": SIZE, "height": SIZE, "rfilter": {"type": "box"},
                     "pixel_format": "rgb"},
            "sampler": {"type": "independent", "sample_count": samples},
        },
        "ball": {"type": "sphere", "radius": RADIUS, "bsdf": bsdf},
        "light": {"type": "envmap", "bitmap": mi.Bitmap(picture.numpy())},
    })  # fmt: skip
    halves = [torch.from_numpy(np.array(mi.render(scene, seed=seed))) for seed in (1, 2)]
    return (halves[0] + halves[1]) / 2, (halves[0] - halves[1]).abs() / 2


def ours(kind: str, value: float, name: str, montecarlo: int = 0) -> tuple[Tensor, Tensor]:
    """[M, 3] at the centres of the pixels well inside the ball, and their places [M] in the picture."""
    camera = orbit([25.0], 15.0, DISTANCE, FOVY)
    origin, towards = camera.rays(SIZE, SIZE)
    d = towards.reshape(-1, 3)
    b = d @ origin[0]
    root = b.square() - (origin[0].square().sum() - RADIUS**2)
    hit = (root > 0.25 * RADIUS**2).nonzero()[:, 0]  # up to 60 degrees from the eye
    points = origin + (-b - root.clamp(min=0).sqrt())[hit, None] * d[hit]
    normal, to_eye = points / RADIUS, -d[hit]
    ones = torch.ones(len(hit), 1)
    metal = kind == "metal"
    material = Material(ones.expand(-1, 3) * (1.0 if metal else value), ones * (value if metal else 1.0), ones * metal)
    which, light = torch.zeros(len(hit), dtype=torch.int64), Lighting.of([environment(name)])
    if not montecarlo:
        return shade(light, material, normal, to_eye, which, 0.0), hit
    g = torch.Generator().manual_seed(0)
    arguments = (light, material, points, normal, to_eye, which, None, g, Draws(montecarlo, montecarlo), 0.0)
    return shade_montecarlo(*arguments, masking="separable"), hit


@pytest.mark.parametrize("name", ["studio", "overcast"])
def test_a_diffuse_ball_by_the_split_sum_is_within_two_percent(name: str) -> None:
    truth, noise = rendered("diffuse", 0.6, name, 1024)
    got, hit = ours("diffuse", 0.6, name)
    truth, noise = truth.reshape(-1, 3)[hit], noise.reshape(-1, 3)[hit]
    error = (got - truth).abs() / truth
    print(f"{name}: mean {float(error.mean()):.4f}, noise {float((noise / truth).mean()):.4f}")
    assert float((error.square().mean() - (noise / truth).square().mean()).clamp(min=0).sqrt()) < 0.02
    assert abs(float((got - truth).mean() / truth.mean())) < 0.01


@pytest.mark.parametrize(("roughness", "mean"), [(0.4, 0.08), (0.8, 0.1)])
def test_a_metal_ball_by_the_split_sum_is_within_its_bound(roughness: float, mean: float) -> None:
    truth, _ = rendered("metal", roughness, "studio", 256)
    got, hit = ours("metal", roughness, "studio")
    error = (got - truth.reshape(-1, 3)[hit]).abs() / truth.reshape(-1, 3)[hit]
    print(f"roughness {roughness}: mean {float(error.mean()):.4f}, 95 % {float(error.quantile(0.95)):.4f}")
    assert error.mean() < mean


@pytest.mark.parametrize(("kind", "value"), [("diffuse", 0.6), ("metal", 0.4), ("metal", 0.8)])
def test_monte_carlo_agrees_within_the_noise_of_both(kind: str, value: float) -> None:
    truth, noise = rendered(kind, value, "studio", 256)
    (first, hit), (second, _) = ours(kind, value, "studio", 128), ours(kind, value, "studio", 96)
    got, truth = (first + second) / 2, truth.reshape(-1, 3)[hit]
    spread = (noise.reshape(-1, 3)[hit].square() + ((first - second) / 2).square()).mean().sqrt()
    error = got - truth
    print(f"{kind} {value}: rms {float(error.square().mean().sqrt()):.4f}, noise {float(spread):.4f}")
    assert float(error.square().mean().sqrt()) < 1.5 * float(spread)
    assert abs(float(error.mean() / truth.mean())) < 3 * float(spread / truth.mean()) / math.sqrt(len(hit)) + 0.005


def test_a_radiance_file_written_by_mitsuba_is_read(tmp_path: Any) -> None:
    picture = resized(environment("studio"), 24)
    path = tmp_path / "x.hdr"
    bitmap = mi.Bitmap(picture.numpy())
    bitmap.convert(mi.Bitmap.PixelFormat.RGB, mi.Struct.Type.Float32, False).write(str(path))
    # Eight bits of the largest channel: a 256th of it.
    assert ((read_hdr(path.read_bytes()) - picture).abs() <= picture.amax(-1, keepdim=True) / 127).all()
