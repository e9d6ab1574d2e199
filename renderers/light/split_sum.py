# SPDX-License-Identifier: Apache-2.0
"""Image-based lighting by the split sum (Karis 2013; Ramamoorthi & Hanrahan 2001), differentiable in everything.

Diffuse light is irradiance as spherical harmonics up to degree 4 (bands 1, 2 and 4 besides the mean; band 3 of a
cosine is zero). Specular light is the environment blurred by GGX lobes seen head-on, one picture per roughness, times
a table of the BRDF's own integral. The blur is linear: its gradient reaches the environment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext.texture import texture
from dreamlab.core.gather import taken
from dreamlab.core.safemath import safe_normalize
from renderers.light.environment import directions, resized, solid_angles, to_uv
from renderers.light.harmonics import COSINE_BANDS, cosine_harmonics
from renderers.light.pbr import F0_DIELECTRIC, MIN_ROUGHNESS, Material, brdf_table, ggx

LEVELS = 8  # of blur; roughness k / (LEVELS - 1)
COARSE = 32  # rows of a blurred environment
COSINE = (math.pi, 2 * math.pi / 3, math.pi / 4, 0.0, -math.pi / 24)  # of a clamped cosine, per band


def blur_kernel(level: int, height: int = COARSE) -> Tensor:
    """[H, H, 2 H]: which share of the light at a row and a step in longitude a lobe of `level` around a texel gathers.

    Weights are D(n.h) n.l with v = n, over solid angles, normalised (Karis' approximation n = v = r). Longitude enters
    by its difference alone, so one row of texels stands for all.
    """
    down = math.pi * (torch.arange(height) + 0.5) / height
    around = math.pi * torch.arange(2 * height) / height
    flat = down.sin()[:, None, None] * down.sin()[None, :, None] * around.cos()
    nl = (flat + down.cos()[:, None, None] * down.cos()[None, :, None]).clamp(-1, 1)
    nh = ((1 + nl) / 2).sqrt()  # between n and l lies h at half the angle
    alpha = torch.tensor(max(level / (LEVELS - 1), MIN_ROUGHNESS) ** 2)
    weight = ggx(nh, alpha) * nl.clamp(min=0) * solid_angles(height, 2 * height)[None, :, :1]
    return weight / weight.sum((1, 2), keepdim=True)


def prefilter(pictures: Tensor) -> Tensor:  # [E, H, W, 3] -> [E, COARSE, 2 COARSE, LEVELS - 1, 3]
    """The environments seen by ever rougher mirrors, from roughness 1 / (LEVELS - 1) on: convolved along longitude by
    Fourier transform, summed over rows."""
    small = torch.stack([resized(picture, COARSE) for picture in pictures])
    waves = torch.fft.rfft(small, dim=2)
    blurred = []
    for level in range(1, LEVELS):
        kernel = torch.fft.rfft(blur_kernel(level).to(small), dim=2)
        mixed = torch.einsum("tsk,eskc->etkc", kernel.conj(), waves)
        blurred.append(torch.fft.irfft(mixed, n=2 * COARSE, dim=2))
    return torch.stack(blurred, 3).clamp(min=0)


def wrapped(picture: Tensor) -> Tensor:
    """[E, H, W + 2, C]: one column repeated on either side, because longitude wraps and latitude does not."""
    return torch.cat([picture[:, :, -1:], picture, picture[:, :, :1]], 2)


def fetch(pictures: Tensor, direction: Tensor, which: Tensor, backend: str = "auto") -> Tensor:
    """[M, C] of `wrapped` pictures [E, H, W + 2, C] in unit directions [M, 3], bilinear; picture `which` [M] each."""
    uv, width = to_uv(direction), pictures.shape[2] - 2
    uv = torch.stack([(uv[:, 0] * width + 1) / (width + 2), uv[:, 1]], -1)[None, None]
    read = [texture(picture, uv, boundary="clamp", backend=backend)[0, 0] for picture in pictures]
    return read[0] if len(read) == 1 else torch.stack(read)[which, torch.arange(len(which), device=which.device)]


@dataclass(frozen=True)
class Lighting:
    """E environments made ready for shading; every pixel says which one it is under."""

    radiance: Tensor  # [E, H, W + 2, 3] wrapped
    diffuse: Tensor  # [E, 18, 3] harmonics of irradiance / pi
    specular: Tensor  # [E, COARSE, 2 COARSE + 2, 3 (LEVELS - 1)] wrapped

    @staticmethod
    def of(pictures: list[Tensor]) -> Lighting:
        """From environments [H, W, 3]; differentiable in them."""
        height = max(picture.shape[0] for picture in pictures)
        radiance = torch.stack([resized(picture, height) for picture in pictures])
        d = directions(height, 2 * height).to(radiance)
        weight = cosine_harmonics(d) * solid_angles(height, 2 * height).to(radiance)[..., None]
        band = torch.tensor([COSINE[degree] / math.pi for degree in COSINE_BANDS]).to(radiance)
        diffuse = torch.einsum("hwk,ehwc->ekc", weight, radiance) * band[:, None]
        return Lighting(wrapped(radiance), diffuse, wrapped(prefilter(radiance).flatten(3)))

    def to(self, device: torch.device | str) -> Lighting:
        return Lighting(self.radiance.to(device), self.diffuse.to(device), self.specular.to(device))

    def irradiance(self, normal: Tensor, which: Tensor) -> Tensor:
        """[M, 3]: irradiance / pi at unit normals [M, 3] under environments `which` [M]."""
        return torch.einsum("mk,mkc->mc", cosine_harmonics(normal), taken(self.diffuse, which)).clamp(min=0)

    def reflected(self, direction: Tensor, roughness: Tensor, which: Tensor, backend: str = "auto") -> Tensor:
        """[M, 3]: blurred radiance from unit directions [M, 3], between the two nearest levels of roughness [M, 1]."""
        sharp = fetch(self.radiance, direction, which, backend)[:, None]
        rough = fetch(self.specular, direction, which, backend)
        levels = torch.cat([sharp, rough.unflatten(-1, (LEVELS - 1, 3))], 1)
        at = roughness.clamp(0, 1) * (LEVELS - 1)
        hat = (1 - (at - torch.arange(LEVELS, device=at.device)).abs()).clamp(min=0)
        return (hat[..., None] * levels).sum(1)


def shade(
    light: Lighting,
    material: Material,
    normal: Tensor,  # [M, 3]
    to_eye: Tensor,  # [M, 3]
    which: Tensor,  # [M] int64
    specular: float = 1.0,
    backend: str = "auto",  # of `texture`
) -> Tensor:
    """[M, 3] linear radiance towards the eye by the split sum; no shadows, no light between parts."""
    nv = (normal * to_eye).sum(-1, keepdim=True).clamp(1e-4, 1)
    roughness = material.roughness.clamp(MIN_ROUGHNESS, 1)
    mirrored = 2 * (normal * to_eye).sum(-1, keepdim=True) * normal - to_eye
    # A rough lobe leans from the mirrored direction towards the normal (Lagarde & de Rousiers 2014, listing 21).
    smooth = 1 - roughness.square()
    towards = safe_normalize(normal + (mirrored - normal) * smooth * (smooth.clamp(min=1e-6).sqrt() + 1 - smooth))
    table = brdf_table().to(nv)
    lookup = (torch.cat([nv, roughness], -1) * (len(table) - 1) + 0.5) / len(table)
    read = texture(table, lookup[None, None], boundary="clamp", backend=backend)
    scale, bias, passed = read[0, 0].split(1, -1)
    arriving = light.reflected(towards, roughness, which, backend)
    diffuse = material.base * light.irradiance(normal, which) * (1 - specular * (1 - passed))
    dielectric = diffuse + specular * (F0_DIELECTRIC * scale + bias) * arriving
    metal = (material.base * scale + bias) * arriving
    return dielectric * (1 - material.metallic) + metal * material.metallic
