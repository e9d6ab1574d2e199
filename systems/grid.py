# SPDX-License-Identifier: Apache-2.0
"""Multi-view grid distillation, after BoostDream (Yu et al. 2024, arXiv:2401.16764): four views in one 2 x 2 picture,
scored at once, g = w(t) (cfg(eps)(grid_t) - n) cut back into the views.

A plain 2D model asked for "a 2 x 2 grid of views of ..." (`grid`, `grid_null`) couples the four by its attention. Each
view is halved first, so that the grid has the model's own size; g comes back by the transpose of the halving.
Differences: their normal-map control is the guidance's; scale and times are ours, the paper's were not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.noise import WEIGHTS, cfg
from dreamlab.core.schedules import Schedule, constant, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from systems.residual import Look, Stateless, per_row, times_in_order


class Grid(Stateless):
    """Views that the model sees side by side in one picture; needs a multiple of four per step."""

    paper: ClassVar[str] = "Yu et al. 2024, arXiv:2401.16764 (settings: ours)"
    cost: ClassVar[str] = "1/2"
    needs: ClassVar[frozenset[str]] = frozenset({"grid", "grid_null"})

    @dataclass(frozen=True)
    class Settings:
        cfg: Schedule = setting(constant(50.0), low=0)
        t_min: Schedule = setting(constant(0.02), low=0, high=1)
        t_max: Schedule = setting(ramp(0.75, 0.5), low=0, high=1)
        weight: str = setting("sds", choices=WEIGHTS, help="w(t)")
        clip: float | None = setting(None, above=0)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @staticmethod
    def check(settings: Settings) -> str | None:
        return times_in_order(settings.t_min, settings.t_max)

    def gradient(self, look: Look) -> Tensor:
        c, now, table = self.settings, look.progress, look.guidance.table
        if len(look.z) % 4:
            raise ValueError(f"grid takes views by four; this stage has {len(look.z)}, set `views` to a multiple of 4")
        picture = tiled(F.avg_pool2d(look.z, 2))
        first = torch.arange(0, len(look.z), 4, device=look.z.device)
        t = look.timesteps(c.t_min.at(now), c.t_max.at(now))[first]
        stream = look.noise_stream
        noise = torch.randn(picture.shape, generator=stream, device=stream.device, dtype=picture.dtype).to(
            picture.device
        )
        state = table.add_noise(picture, noise, t)
        told = Condition.cat([look.conditions[name].take(first) for name in ("grid", "grid_null")])
        with torch.no_grad():
            text, null = look.guidance.predict(torch.cat([state, state]), torch.cat([t, t]), told).chunk(2)
        look.calls, look.rows = look.calls + 1, look.rows + 2 * len(first)
        g = per_row(table.weight(c.weight, t), text) * (cfg(null, text, c.cfg.at(now)) - noise)
        return F.interpolate(untiled(g), scale_factor=2, mode="nearest") / 4


def tiled(views: Tensor) -> Tensor:  # [4 G, C, h, w] -> [G, C, 2h, 2w], row by row
    count, channels, height, width = views.shape
    rows = views.reshape(count // 4, 2, 2, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(count // 4, channels, 2 * height, 2 * width)


def untiled(pictures: Tensor) -> Tensor:
    """Inverse of `tiled`."""
    count, channels, height, width = pictures.shape
    cells = pictures.reshape(count, channels, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(4 * count, channels, height // 2, width // 2)
