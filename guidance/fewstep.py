# SPDX-License-Identifier: Apache-2.0
"""Models that were taught to draw in a few steps, as guidance: at the times they know, and at no other.

Their answer is no score: it points at a whole picture x0, which is biased and hardly varies. Rules that aim at x0
(HiFA, ISM) and the sampling of pictures gain by it. Guidance is in their weights, so a rule's `cfg` belongs at 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreamlab.core.errors import ModelError
from dreamlab.core.noise import NoiseTable
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.loading import ModelFolder
from guidance.latent.model import LatentModel
from guidance.latent.tables import Clock
from guidance.sd import StableDiffusion
from guidance.sdxl import StableDiffusionXL

FOUR = (249, 499, 749, 999)
TAUGHT: Mapping[str, tuple[int, ...]] = {
    "lcm": tuple(range(19, 1000, 20)),  # fifty, of which a sampler takes four or eight
    "turbo": FOUR,
    "dmd2": FOUR,
    "dmd2-one": (399,),
    "hyper": tuple(range(124, 1000, 125)),  # eight, four, two or one, evenly spaced up to the last
}
SIGMA_DATA, TIME_SCALE = 0.5, 10.0  # of a consistency model's boundary condition (Song et al. 2023, arXiv:2303.01469)


@dataclass(frozen=True)
class FewSettings:
    """What a model of few steps can be told besides."""

    taught: str = setting("lcm", choices=tuple(TAUGHT), help="how it was taught: the times it knows")
    told_guidance: float = setting(8.0, low=0, high=20, help="the guidance that an LCM is told it has")


class FewSteps(LatentModel):
    """What both sizes share: a table of few times, LCM's boundary and the guidance it is told."""

    settings: Any

    def clock_of(self, source: ModelFolder) -> Clock:
        whole = super().clock_of(source)
        times = torch.tensor(TAUGHT[self.settings.taught])
        if len(whole.table) <= int(times.max()):
            raise ModelError(f"{source.path}: its scheduler has {len(whole.table)} times, fewer than it was taught at")
        return Clock(NoiseTable(whole.table.alpha_bar[times]), whole.form, times.float())

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        said = super().answer(z, time, condition)  # type: ignore[safe-super]
        if self.settings.taught != "lcm":
            return said
        bar = self.table.alpha_bar[(self.clock.time == time[:, None]).int().argmax(1)]
        return bounded(z, said, time, bar)

    def beside(self, z: Tensor, time: Tensor, condition: Condition, told: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = super().beside(z, time, condition, told)  # type: ignore[misc]
        if width := self.module.config.time_cond_proj_dim:
            given["timestep_cond"] = guidance_code(self.settings.told_guidance, width).to(z).expand(len(z), -1)
        return given


class FewStep(FewSteps, StableDiffusion):
    """Stable Diffusion taught to draw in a few steps: LCM, SD-Turbo, or a LoRA of Hyper-SD."""

    paper: ClassVar[str] = "Luo et al. 2023, arXiv:2310.04378; Sauer et al. 2023, arXiv:2311.17042"
    takes: ClassVar[str] = "sd"
    default: ClassVar[str] = "lcm-sd15"

    @dataclass(frozen=True)
    class Settings(FewSettings, StableDiffusion.Settings):
        model: str = setting("lcm-sd15", help="a name of `dreamlab models ls`, or the path of a folder or file")


class FewStepXL(FewSteps, StableDiffusionXL):
    """Stable Diffusion XL taught to draw in a few steps: SDXL-Turbo, or a LoRA of LCM, Hyper-SD or DMD2."""

    paper: ClassVar[str] = "Luo et al. 2023, arXiv:2311.05556; Ren et al. 2024, arXiv:2404.13686"
    takes: ClassVar[str] = "sdxl"
    default: ClassVar[str] = "sdxl-turbo"

    @dataclass(frozen=True)
    class Settings(FewSettings, StableDiffusionXL.Settings):
        model: str = setting("sdxl-turbo", help="a name of `dreamlab models ls`, or the path of a folder or file")
        taught: str = setting("turbo", choices=tuple(TAUGHT), help="how it was taught: the times it knows")


def bounded(z: Tensor, eps: Tensor, time: Tensor, alpha_bar: Tensor) -> Tensor:
    """eps of the picture c_out x0 + c_skip z that a consistency model means: without noise, what it is given."""
    lift = (-1, *[1] * (z.dim() - 1))
    a, b = alpha_bar.sqrt().reshape(lift), (1 - alpha_bar).sqrt().reshape(lift)
    scaled = (TIME_SCALE * time).reshape(lift)
    skip = SIGMA_DATA**2 / (scaled.square() + SIGMA_DATA**2)
    out = scaled / (scaled.square() + SIGMA_DATA**2).sqrt()
    x0 = out * (z - b * eps) / a + skip * z
    return (z - a * x0) / b


def guidance_code(scale: float, width: int) -> Tensor:  # [1, width]
    """Sines and cosines of a thousand times (scale - 1), slowest last."""
    half = width // 2
    speed = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10000.0) / (half - 1)))
    angle = 1000.0 * (scale - 1.0) * speed
    return torch.cat([angle.sin(), angle.cos()])[None]
