# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion XL, and what is fine-tuned of it in the same layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.latent.penultimate import TwoClips
from guidance.latent.text import TextEncoder
from guidance.sd import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion of three times the size, which is also told how large the picture is that it looks at."""

    paper: ClassVar[str] = "Podell et al. 2023, arXiv:2307.01952"
    takes: ClassVar[str] = "sdxl"
    default: ClassVar[str] = "sdxl"
    single_kinds: ClassVar[tuple[str, ...]] = ("sdxl",)

    @dataclass(frozen=True)
    class Settings(StableDiffusion.Settings):
        model: str = setting("sdxl", help="a name of `dreamlab models ls`, or the path of a folder or file")
        tiny: str = setting("taesdxl", help="the tiny autoencoder, as `model`; for hybrid and tiny")
        told_size: int = setting(0, low=0, high=4096, help="pixels that it is told the picture has; 0: those it has")
        nothing: str = setting(
            "auto", choices=("auto", "zeros", "encoded"), help="an empty text; auto: as its folder says"
        )

    settings: Settings

    def text_encoder(self, device: torch.device) -> TextEncoder:
        folder = self.source.index().get("force_zeros_for_empty_prompt", True)
        zeros = bool(folder) if self.settings.nothing == "auto" else self.settings.nothing == "zeros"
        return TwoClips(self.source, self.dtype, device, self.settings.clip_skip, zeros)

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        side = float(self.settings.told_size or self.side)
        # height and width before cropping, top and left of the crop, height and width aimed at
        sizes = torch.tensor([side, side, 0.0, 0.0, side, side], device=self.device).expand(len(cameras), -1)
        more = super().told(prompt, cameras, frames).get("", {})
        return {"": {**more, "sizes": sizes}}

    def beside(self, z: Tensor, time: Tensor, condition: Condition, told: Mapping[str, Any]) -> dict[str, Any]:
        rows = condition.rows
        added = {"text_embeds": rows["pooled"].to(z.dtype), "time_ids": rows["sizes"]}
        return super().beside(z, time, condition, {**told, "added_cond_kwargs": added})
