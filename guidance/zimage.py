# SPDX-License-Identifier: Apache-2.0
"""Z-Image, the undistilled one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dreamlab.core.errors import RecipeError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.flow import FlowModel, FlowSettings
from guidance.latent.qwen import QwenText
from guidance.latent.text import TextEncoder


class ZImage(FlowModel):
    """A transformer of six billion that hears a language model; its time runs from noise to picture."""

    paper: ClassVar[str] = "Z-Image Team 2025, arXiv:2511.22699"
    takes: ClassVar[str] = "z-image"
    default: ClassVar[str] = "z-image"
    net_kinds: ClassVar[tuple[str, ...]] = ("ZImageTransformer2DModel",)
    time_part: ClassVar[str] = "t_embedder"

    @dataclass(frozen=True)
    class Settings(FlowSettings):
        model: str = setting("z-image", help="a name of `dreamlab models ls`, or the path of a folder")
        tiny: str = setting("taef1", help="the tiny autoencoder, as `model`; for hybrid and tiny")
        words: int = setting(512, low=32, high=1024, help="tokens of the message that the language model reads")

    settings: Settings

    @classmethod
    def card(cls, settings: Any) -> Any:
        if settings.clip_skip:
            raise RecipeError("clip_skip: Z-Image hears a language model, not CLIP; leave it out")
        return super().card(settings)

    def to(self, device: torch.device | str) -> Self:
        super().to(device)
        # Its tables of places are made at the first call, which a compiler does not follow: let this be the first.
        self.module.rope_embedder(torch.zeros(1, 3, dtype=torch.int32, device=self.device))
        return self

    def text_encoder(self, device: torch.device) -> TextEncoder:
        return QwenText(
            self.source, "Qwen3Model", self.dtype, device, layers=(-2,), length=self.settings.words, thinking=True
        )

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        text, mask = condition.rows["text"].to(z.dtype), condition.rows["mask"].bool()
        heard = [one[there] for one, there in zip(text, mask, strict=True)]  # only what was said
        said: list[Tensor] = self.net(list(z[:, :, None].unbind()), 1 - time, heard, return_dict=False)[0]
        return -torch.stack(said)[:, :, 0]
