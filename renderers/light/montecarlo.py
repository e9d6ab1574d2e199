# SPDX-License-Identifier: Apache-2.0
"""Shading by Monte Carlo with shadows: the reference for `light.shade`, and the light-aware mode of DreamMat
(arXiv:2405.17176). Direct light only.

Directions are drawn from the environment (its radiance by solid angle) and from the material's GGX lobe; both sets
are weighted together by the balance heuristic (Veach 1997): L f cos V / (n_e p_e + n_s p_s). Choosing directions
is not differentiated; the BRDF's value at them is, so materials, normals and light receive gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.safemath import safe_normalize
from dreamlab.core.streams import by_view
from renderers.light.environment import solid_angles, to_uv
from renderers.light.pbr import MIN_ROUGHNESS, Material, brdf_cos, ggx
from renderers.light.rays import Boxes
from renderers.light.split_sum import Lighting, fetch

EVERYWHERE = 0.05  # share of light samples spread over all directions, so that no light is ever missed
OFFSET = 1e-3  # shadow rays start this far off the surface


@dataclass(frozen=True)
class Draws:
    """How many directions per point, from the light and from the material."""

    light: int = 64
    lobe: int = 64


def shade_montecarlo(
    light: Lighting,
    material: Material,
    points: Tensor,  # [M, 3]
    normal: Tensor,  # [M, 3]
    to_eye: Tensor,  # [M, 3]
    which: Tensor,  # [M] int64
    occluder: Boxes | None,
    generator: torch.Generator,
    samples: Draws | None = None,
    specular: float = 1.0,
    masking: str = "correlated",
) -> Tensor:
    """[M, 3] linear radiance towards the eye. `generator` lives where the points do."""
    samples = samples or Draws()
    with torch.no_grad():
        alpha = material.roughness.detach().clamp(min=MIN_ROUGHNESS).square()
        odds, ways = _light_odds(light)
        from_light = _draw_light(odds, ways, which, samples.light, generator)
        from_lobe = _draw_lobe(normal, to_eye, alpha, samples.lobe, generator)
        directions = torch.cat([from_light, from_lobe], 1)  # [M, S, 3]
        density = samples.light * _light_density(odds, directions, which)
        density = density + samples.lobe * _lobe_density(normal, to_eye, alpha, directions)
        useful = (normal[:, None] * directions).sum(-1) > 0
        if occluder is not None:
            rows, sample = useful.nonzero(as_tuple=True)
            towards = directions[rows, sample]
            start = points[rows] + OFFSET * normal[rows]
            useful[rows, sample] = ~occluder.blocked(start, towards)
    flat, at = directions.flatten(0, 1), which[:, None].expand(directions.shape[:2]).reshape(-1)
    arriving = fetch(light.radiance, flat, at).reshape(directions.shape)
    value = brdf_cos(material, normal[:, None], to_eye[:, None], directions, specular, masking) * arriving
    return (value * (useful / density.clamp(min=1e-9))[..., None]).sum(1)


def _light_odds(light: Lighting) -> tuple[Tensor, Tensor]:
    """Probability [E, H W] of drawing each texel, and steradians [H, W]."""
    inner = light.radiance[:, :, 1:-1]
    ways = solid_angles(*inner.shape[1:3]).to(inner)
    power = (inner.mean(-1) * ways).flatten(1)
    odds = power / power.sum(1, keepdim=True).clamp(min=1e-20)
    return (1 - EVERYWHERE) * odds + EVERYWHERE * ways.flatten() / (4 * math.pi), ways


def _draw_light(odds: Tensor, ways: Tensor, which: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[M, count, 3]: stratified over the cumulative odds, uniform by solid angle within a texel."""
    height, width = ways.shape
    points, device = len(which), odds.device

    def uniform() -> Tensor:
        return by_view(torch.rand, points, count, stream=generator, uneven=True, dtype=odds.dtype)

    total = odds.cumsum(1)
    aim = (torch.arange(count, device=device) + uniform()) / max(count, 1)
    texel = torch.empty(points, count, dtype=torch.int64, device=device)
    for e in range(len(odds)):  # one search per environment: each has its own table
        rows = (which == e).nonzero()[:, 0]
        texel[rows] = torch.searchsorted(total[e], aim[rows] * total[e, -1])
    texel = texel.clamp(max=height * width - 1)
    row, column = texel // width, texel % width
    top, bottom = (torch.cos(math.pi * edge / height) for edge in (row, row + 1))
    y = top + (bottom - top) * uniform()
    around = 2 * math.pi * (column + uniform()) / width
    flat = (1 - y.square()).clamp(min=0).sqrt()
    return torch.stack([flat * around.sin(), y, -flat * around.cos()], -1).to(odds)


def _light_density(odds: Tensor, directions: Tensor, which: Tensor) -> Tensor:
    """[M, S] per steradian."""
    count = odds.shape[1]
    height = math.isqrt(count // 2)
    uv = to_uv(directions)
    row = (uv[..., 1] * height).long().clamp(0, height - 1)
    column = (uv[..., 0] * 2 * height).long().clamp(0, 2 * height - 1)
    ways = solid_angles(height, 2 * height).to(odds).flatten()
    texel = row * 2 * height + column
    return odds[which[:, None], texel] / ways[texel]


def _draw_lobe(normal: Tensor, to_eye: Tensor, alpha: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[M, count, 3]: the eye mirrored at half vectors drawn from D(n.h) n.h; some point below the horizon."""
    shape = (len(normal), count)
    first, second = (by_view(torch.rand, *shape, stream=generator, uneven=True) for _ in range(2))
    u = (torch.arange(count, device=normal.device) + first) / max(count, 1)
    around = 2 * math.pi * second
    cos = ((1 - u) / (1 + (alpha.square() - 1) * u)).clamp(0, 1).sqrt()
    sin = (1 - cos.square()).clamp(min=0).sqrt()
    across, up = frame(normal)
    half = (
        (sin * around.cos())[..., None] * across[:, None]
        + (sin * around.sin())[..., None] * up[:, None]
        + cos[..., None] * normal[:, None]
    )
    return safe_normalize(2 * (to_eye[:, None] * half).sum(-1, keepdim=True) * half - to_eye[:, None])


def _lobe_density(normal: Tensor, to_eye: Tensor, alpha: Tensor, directions: Tensor) -> Tensor:
    """[M, S] per steradian: D(n.h) n.h / (4 v.h)."""
    half = torch.nn.functional.normalize(to_eye[:, None] + directions, dim=-1)
    nh = (normal[:, None] * half).sum(-1).clamp(min=0)
    vh = (to_eye[:, None] * half).sum(-1).clamp(min=1e-6)
    return ggx(nh, alpha) * nh / (4 * vh)


def frame(normal: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors [M, 3] that make a right-handed frame (across, up, normal) (Duff et al. 2017)."""
    x, y, z = normal.unbind(-1)
    sign = torch.where(z >= 0, 1.0, -1.0).to(normal)
    a = -1 / (sign + z)
    b = x * y * a
    across = torch.stack([1 + sign * x * x * a, sign * b, -sign * x], -1)
    return across, torch.stack([b, sign + y * y * a, -y], -1)
