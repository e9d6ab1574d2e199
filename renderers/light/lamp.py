# SPDX-License-Identifier: Apache-2.0
"""The light of the procedural world on a surface, as `cuda_ext.reference.sdf.shade` has it where nothing is occluded: a
soft hemisphere, a key light that reaches around, a lamp at the camera, and one gloss lobe for the key.

Everything is linear in the base colour, given roughness and metallic: seen = base * B + D with B = (1 - 0.4 metallic)
arriving + metallic gloss, and D = 0.04 (1 - metallic) gloss. So colours can be freed of their light again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext.sdf_layout import METAL_LOSS, WRAP
from dreamlab.toybox.draw import Light
from renderers.light.pbr import Material

F0 = 0.04  # of what is no metal
SHARPEST = 0.1  # roughness


class LampLight(NamedTuple):
    """What light does at M points of a surface, whatever it is made of."""

    arriving: Tensor  # [M, 3] linear, what a white surface would show without gloss
    key: Tensor  # [M, 3] of it what the gloss lobe mirrors
    facing: Tensor  # [M, 1] cosine between the normal and half-way from the eye to the key light


def lit(normal: Tensor, to_eye: Tensor, light: Light | None = None) -> LampLight:
    """Unit vectors [M, 3]."""
    light = light or Light()
    towards, key, sky, ground = (
        normal.new_tensor(each) for each in (light.towards_key, light.key, light.sky, light.ground)
    )
    towards = F.normalize(towards, dim=0)
    up = 0.5 + 0.5 * normal[:, 1:2]
    wrapped = (((normal * towards).sum(-1, keepdim=True) + WRAP) / (1 + WRAP)).clamp(min=0)
    head = (normal * to_eye).sum(-1, keepdim=True).clamp(min=0) * light.head
    facing = (normal * F.normalize(towards + to_eye, dim=-1)).sum(-1, keepdim=True).clamp(min=0)
    return LampLight(ground * (1 - up) + sky * up + head + key * wrapped, key * wrapped, facing)


def gloss(at: LampLight, roughness: Tensor | float) -> Tensor:  # [M, 3]
    """The lobe's light: a Gaussian of the angle to half-way."""
    width = torch.as_tensor(roughness).clamp(min=SHARPEST).pow(4)
    return torch.exp((at.facing - 1) * 2 / width) * (0.25 / width) * at.key


def factors(at: LampLight, roughness: Tensor | float, metallic: Tensor | float) -> tuple[Tensor, Tensor]:
    """(B, D) [M, 3]: linear light is base * B + D."""
    shine = gloss(at, roughness)
    return (1 - METAL_LOSS * metallic) * at.arriving + metallic * shine, F0 * (1 - metallic) * shine


def shade(material: Material, normal: Tensor, to_eye: Tensor) -> Tensor:  # [M, 3] linear
    """Of a material at M points."""
    scale, offset = factors(lit(normal, to_eye), material.roughness, material.metallic)
    return material.base * scale + offset


def unlit(seen: Tensor, normal: Tensor) -> Tensor:  # [M, 3] linear
    """The base of a matte surface that is looked at straight."""
    return (seen / lit(normal, normal).arriving).clamp(0, 1)
