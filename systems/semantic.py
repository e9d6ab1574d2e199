# SPDX-License-Identifier: Apache-2.0
"""Semantic score distillation (Yang et al. 2024, SemanticSDS, arXiv:2410.09009): every region of the picture is scored
under the prompt of what it shows, with one noise and one time: g = w(t) sum_k M_k (cfg(eps_k)(z_t) - n).

A region is a box of the world; a pixel belongs to the region its surface point lies in, M is pooled to the latents'
size, widened by a 5 x 5 maximum into the background only, and 0 there. Words of direction of a region follow where the
camera stands about the box's own centre. Difference: boxes instead of learned semantic codes on the Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras, wrap_degrees
from dreamlab.core.cards import RuleCard
from dreamlab.core.schedules import Schedule, constant
from dreamlab.core.settings import setting
from dreamlab.core.types import Prompt
from systems.engine.residual import Look, per_row, predict_cfg
from systems.engine.rule import NoiseSettings, Rule
from systems.engine.surface_noise import surface_points


@dataclass(frozen=True)
class Region:
    """What is in a box of the world, metres."""

    prompt: str
    x: tuple[float, float] = (-10.0, 10.0)
    y: tuple[float, float] = (-10.0, 10.0)
    z: tuple[float, float] = (-10.0, 10.0)


class Semantic(Rule["Semantic.Settings"]):
    """SDS with a prompt per region of space, so that colours and parts do not run into each other."""

    paper: ClassVar[str] = "Yang et al. 2024, arXiv:2410.09009"
    cost: ClassVar[str] = "2 per region"
    needs: ClassVar[frozenset[str]] = frozenset({"text", "null"})
    frames: ClassVar[bool] = True
    rescales: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(NoiseSettings):
        regions: tuple[Region, ...] = ()
        cfg: Schedule = setting(constant(101.0), low=0, help="100 in their form")

        def complaint(self) -> str:
            missing = "" if self.regions else "semantic needs `regions`: a list of {prompt, x, y, z}"
            return missing or super().complaint()

    @classmethod
    def card(cls, settings: Settings) -> RuleCard:
        return replace(super().card(settings), texts=tuple(region.prompt for region in settings.regions))

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        if look.frames is None or look.cameras is None:
            raise ValueError("semantic needs the cameras and frames of a step")
        t = c.times(look)
        noise = look.noise()
        state = look.noised(noise, t)
        masks = region_masks(look, c.regions)
        total = torch.zeros_like(look.z)
        for k, region in enumerate(c.regions):
            said = look.guidance.condition(Prompt(region.prompt), look.cameras, look.frames)
            local = replace(look, conditions=said, cameras=about(look.cameras, centre_of(region)))
            total = total + masks[:, k, None] * (predict_cfg(local, state, c.cfg.at(now)) - noise)
            look.calls, look.rows = look.calls + local.calls, look.rows + local.rows
        return per_row(table.weight(c.weight, t), total) * total


def region_masks(look: Look, regions: tuple[Region, ...]) -> Tensor:
    """[B, K, h, w] of 0 and 1; at most one region per pixel."""
    assert look.frames is not None and look.cameras is not None
    height, width = look.frames.alpha.shape[1:3]
    points, there = surface_points(look.frames, look.cameras, height, width)
    inside = []
    for region in regions:
        low, high = points.new_tensor([region.x, region.y, region.z]).unbind(1)
        inside.append(((points >= low) & (points <= high)).all(-1) & there)
    height, width = look.z.shape[-2:]
    shares = F.adaptive_avg_pool2d(torch.stack(inside, 1).to(look.z), (height, width))
    seen = shares.sum(1, keepdim=True) > 0
    winner = F.one_hot(shares.argmax(1), len(regions)).movedim(-1, 1).to(look.z) * seen
    wide = F.max_pool2d(winner, 5, stride=1, padding=2)
    grown = F.one_hot(wide.argmax(1), len(regions)).movedim(-1, 1).to(look.z) * (wide.sum(1, keepdim=True) > 0)
    return torch.where(seen, winner, grown)


def centre_of(region: Region) -> tuple[float, float, float]:
    """Of its box; an axis without bounds counts as centred."""
    x, y, z = ((low + high) / 2 for low, high in (region.x, region.y, region.z))
    return x, y, z


def about(cameras: Cameras, centre: tuple[float, float, float]) -> Cameras:
    """The same cameras, with azimuth, elevation and distance as seen from `centre`."""
    offset = cameras.camera_to_world[:, :3, 3] - cameras.camera_to_world.new_tensor(centre)
    distance = offset.norm(dim=-1)
    azimuth = wrap_degrees(torch.rad2deg(torch.atan2(offset[:, 0], offset[:, 2])))
    elevation = torch.rad2deg(torch.asin((offset[:, 1] / distance).clamp(-1, 1)))
    return replace(cameras, azimuth_deg=azimuth, elevation_deg=elevation, distance=distance)
