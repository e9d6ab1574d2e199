# SPDX-License-Identifier: Apache-2.0
"""glTF's metallic-roughness model (glTF 2.0, appendix B) in closed form, all in linear light.

n, v, l: unit normal, direction to the eye, direction to the light; h = (v + l) / |v + l|; alpha = roughness^2.
Specular f = D(n.h) V(n.l, n.v) F(v.h) with GGX's D, height-correlated Smith masking V and Schlick's F. A dielectric
mixes: diffuse (1 - F) + specular with F0 = 0.04; a metal is specular with F0 = base colour; the two *results* are
blended by `metallic`. `specular` scales the dielectric's F0 and F90 as KHR_materials_specular does: 0 is plain Lambert.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

F0_DIELECTRIC = 0.04
MIN_ROUGHNESS = 0.045  # alpha = 0.002: below, highlights of lamps are smaller than any pixel
TABLE_SIZE = 32


class Material(NamedTuple):
    """Of M points."""

    base: Tensor  # [M, 3] linear
    roughness: Tensor  # [M, 1]
    metallic: Tensor  # [M, 1]


def ggx(nh: Tensor, alpha: Tensor) -> Tensor:
    """D: density of microfacet normals, per steradian; integrates with n.h to 1."""
    a2 = alpha.square()
    return a2 / (math.pi * (nh.square() * (a2 - 1) + 1).square())


def visibility(nl: Tensor, nv: Tensor, alpha: Tensor, masking: str = "correlated") -> Tensor:
    """V = G / (4 n.l n.v). `separable` multiplies the two maskings as Mitsuba and pbrt's older models do."""
    a2 = alpha.square()

    def side(x: Tensor) -> Tensor:
        return (a2 + (1 - a2) * x.square()).sqrt()

    if masking == "separable":
        return 1 / ((nl + side(nl)) * (nv + side(nv))).clamp(min=1e-9)
    return 0.5 / (nl * side(nv) + nv * side(nl)).clamp(min=1e-9)


def schlick(vh: Tensor) -> Tensor:
    """(1 - v.h)^5: how far F has gone from F0 to F90."""
    return (1 - vh).clamp(0, 1) ** 5


def brdf_cos(
    material: Material,
    normal: Tensor,  # [M, 1, 3]
    to_eye: Tensor,  # [M, 1, 3]
    to_light: Tensor,  # [M, S, 3]
    specular: float = 1.0,
    masking: str = "correlated",
) -> Tensor:
    """[M, S, 3]: f n.l for S directions at each of M points; 0 below the horizon."""
    nl, nv = (normal * to_light).sum(-1, keepdim=True), (normal * to_eye).sum(-1, keepdim=True)
    half = torch.nn.functional.normalize(to_eye + to_light, dim=-1)
    nh, vh = (normal * half).sum(-1, keepdim=True).clamp(0, 1), (to_eye * half).sum(-1, keepdim=True).clamp(0, 1)
    lit = (nl > 0) & (nv > 0)
    nl, nv = nl.clamp(min=1e-6), nv.clamp(min=1e-6)
    base, metallic = material.base[:, None], material.metallic[:, None]
    alpha = material.roughness[:, None].clamp(min=MIN_ROUGHNESS).square()
    lobe, turn = ggx(nh, alpha) * visibility(nl, nv, alpha, masking), schlick(vh)
    dielectric_f = specular * (F0_DIELECTRIC + (1 - F0_DIELECTRIC) * turn)
    dielectric = base / math.pi * (1 - dielectric_f) + lobe * dielectric_f
    metal = lobe * (base + (1 - base) * turn)
    return torch.where(lit, (dielectric * (1 - metallic) + metal * metallic) * nl, 0.0)


@lru_cache(maxsize=4)
def brdf_table(size: int = TABLE_SIZE, samples: int = 1024) -> Tensor:
    """[size, size, 3]: rows roughness, columns n.v at i / (size - 1); A, B of F0 A + F90 B (Karis 2013, eq. 8), and
    the share of light that a dielectric's diffuse part receives under light from everywhere, mean of 1 - F.

    Half vectors are drawn from those that the eye sees (Dupuy & Benyoub 2023) by a Hammersley set, so weights are
    G2 / G1 with G2 = 4 V n.l n.v.
    """
    line = torch.linspace(0, 1, size, dtype=torch.float64)
    i = torch.arange(samples)
    u1, u2 = ((i + 0.5) / samples).double(), torch.zeros(samples, dtype=torch.float64)
    bits, weight = i.clone(), 0.5
    while int(bits.max()):
        u2, bits, weight = u2 + weight * (bits & 1), bits >> 1, weight / 2
    around = 2 * math.pi * u2
    roughness, nv = line[:, None, None].clamp(min=MIN_ROUGHNESS), line[None, :, None].clamp(min=1e-3)
    alpha = roughness.square()
    across = (1 - nv.square()).sqrt()
    # Visible half vectors: a cap of directions around the eye in the space where the lobe is a hemisphere.
    stretch = (alpha.square() * across.square() + nv.square()).sqrt()
    eye_x, eye_z = alpha * across / stretch, nv / stretch
    z = (1 - u1) * (1 + eye_z) - eye_z
    sin = (1 - z.square()).clamp(min=0).sqrt()
    half = torch.stack([alpha * (sin * around.cos() + eye_x), alpha * sin * around.sin(), (z + eye_z).clamp(min=0)], -1)
    half = torch.nn.functional.normalize(half, dim=-1)  # [size, size, S, 3]
    nh = half[..., 2]
    vh = (across * half[..., 0] + nv * nh).clamp(min=0)
    nl = (2 * vh * nh - nv).clamp(min=0)
    seen = 2 * nv / (nv + (alpha.square() + (1 - alpha.square()) * nv.square()).sqrt())  # G1 of the eye
    weight_of = 4 * visibility(nl.clamp(min=1e-9), nv, alpha) * nl * nv / seen
    bend = schlick(vh)
    scale, bias = (weight_of * (1 - bend)).mean(-1), (weight_of * bend).mean(-1)
    # Lambert: l drawn by cosine, F at the half vector of v and l.
    sin_l, cos_l = u1.sqrt(), (1 - u1).sqrt()
    vl = (1 - nv.square()).sqrt() * sin_l * around.cos() + nv * cos_l
    fresnel = F0_DIELECTRIC + (1 - F0_DIELECTRIC) * schlick(((1 + vl) / 2).clamp(min=0).sqrt())
    passed = (1 - fresnel).mean(-1).expand(size, size)
    return torch.stack([scale, bias, passed], -1).float()
