# SPDX-License-Identifier: Apache-2.0
"""Point-light shading for distillation (DreamFusion arXiv:2209.14988 section 3.1; threestudio's two light placements).

A training step shows the object lit with probability `lit`; of those steps a part is textureless: white, shaded only,
which keeps a flat object with a painted-on shape from looking right. Otherwise the colour itself is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.safemath import safe_normalize
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.settings import setting
from dreamlab.core.streams import by_view
from dreamlab.core.types import Training

PLACEMENTS = ("dreamfusion", "magic3d")


@dataclass(frozen=True)
class ShadingSettings:
    """Off until `lit` says otherwise; then the field needs normals."""

    lit: Schedule = setting(constant(0.0), low=0, high=1, help="probability that a training step is lit; paper 0.75")
    textureless: Schedule = setting(constant(0.5), low=0, high=1, help="part of the lit steps without colour")
    ambient: float = setting(0.1, low=0, high=1)
    diffuse: float = setting(0.9, low=0, high=1)
    soft: bool = setting(False, help="diffuse drawn from [0, 1] per step, ambient the rest (Magic3D)")
    light: str = setting("dreamfusion", choices=PLACEMENTS, help="where lights stand")


@dataclass(frozen=True)
class Shading:
    """One step's light, as tensors, so that nobody waits to learn which mode was drawn."""

    position: Tensor  # [B, 3]
    ambient: Tensor  # []
    diffuse: Tensor  # []
    textureless: Tensor  # [] 0 or 1

    def apply(self, colour: Tensor, normal: Tensor, points: Tensor, view: Tensor) -> Tensor:
        """[M, C]: colour (ambient + diffuse max(0, n . l)), with white for the colour in a textureless step."""
        toward = safe_normalize(self.position[view] - points)
        facing = (normal * toward).sum(-1, keepdim=True).clamp(min=0)
        base = torch.lerp(colour, torch.ones_like(colour), self.textureless)
        return base * (self.ambient + self.diffuse * facing)


def wanted(settings: ShadingSettings, progress: Progress) -> bool:
    return settings.lit.at(progress) > 0


def draw(settings: ShadingSettings, cameras: Cameras, training: Training) -> Shading:
    """A light per view and a mode per step. The number of random draws is fixed."""
    stream, like = training.stream, cameras.camera_to_world
    count = len(cameras)

    def uniform(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=stream, device=stream.device).to(like)

    coins, strength = uniform((2,)), uniform(())
    where, spread = (by_view(draw, count, 3, stream=stream).to(like) for draw in (torch.rand, torch.randn))
    lit = (coins[0] < settings.lit.at(training.progress)).to(like)
    blank = lit * (coins[1] < settings.textureless.at(training.progress)).to(like)
    diffuse = strength if settings.soft else torch.full_like(strength, settings.diffuse)
    ambient = 1 - strength if settings.soft else torch.full_like(strength, settings.ambient)
    position = place(settings.light, like, spread, where)
    return Shading(position, torch.lerp(torch.ones_like(ambient), ambient, lit), lit * diffuse, blank)


def place(kind: str, camera_to_world: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
    """Light positions [B, 3] from standard normal and uniform draws [B, 3].

    dreamfusion  around the direction to the eye plus N(0, 1)
    magic3d      30 to 90 degrees above the plane at right angles to the direction to the eye (90: between it and us)

    Both at 0.8 to 1.5 from the origin, inside the orbit of any camera.
    """
    eye, right = camera_to_world[:, :3, 3], camera_to_world[:, :3, 0]
    if kind == "dreamfusion":
        return safe_normalize(eye + normal) * (0.8 + 0.7 * uniform[:, :1])
    azimuth, elevation = 2 * math.pi * uniform[:, :1], math.pi / 3 * (uniform[:, 1:2] + 0.5)
    # A camera that is shaken does not look along this axis.
    ahead = safe_normalize(eye)
    across = safe_normalize(right - ahead * (ahead * right).sum(-1, keepdim=True))
    up = torch.linalg.cross(ahead, across)
    around = azimuth.cos() * across + azimuth.sin() * up
    return (elevation.cos() * around + elevation.sin() * ahead) * (0.8 + 0.7 * uniform[:, 2:])
