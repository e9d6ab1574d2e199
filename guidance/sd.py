# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.5, 2.1-base, 2.1 (768, predicts v), and whatever is fine-tuned of them in the same layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.loading import ModelFolder
from guidance.latent.model import GRIDS, SPOKEN, LatentModel, ModelSettings, trained_side
from guidance.latent.text import ClipText, TextEncoder


class StableDiffusion(LatentModel):
    """A latent diffusion model of pictures told a text; it is not told the camera, but in words."""

    paper: ClassVar[str] = "Rombach et al. 2022, arXiv:2112.10752"
    takes: ClassVar[str] = "sd"
    clip_words: ClassVar[bool] = True
    default: ClassVar[str] = "sd15"
    single_kinds: ClassVar[tuple[str, ...]] = ("sd1", "sd2")
    conditions: ClassVar[frozenset[str]] = SPOKEN | GRIDS

    @dataclass(frozen=True)
    class Settings(ModelSettings):
        model: str = setting("sd15", help="a name of `dreamlab models ls`, or the path of a folder or file")

    def __init__(self, settings: Settings, source: ModelFolder) -> None:
        super().__init__(settings, source)
        self.trained_at: int = trained_side(source)  # type: ignore[misc]

    def text_encoder(self, device: torch.device) -> TextEncoder:
        return ClipText(self.source, self.dtype, device, self.settings.clip_skip)

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        told = {"encoder_hidden_states": condition.rows["text"].to(z.dtype)}
        said: Tensor = self.net(z, time, **self.beside(z, time, condition, told), return_dict=False)[0]
        return said

    def beside(self, z: Tensor, time: Tensor, condition: Condition, told: Mapping[str, Any]) -> dict[str, Any]:
        """All that the network is given beside state and time; `told` is the text."""
        return dict(told)
