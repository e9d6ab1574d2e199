# SPDX-License-Identifier: Apache-2.0
"""FLUX.1, dev and schnell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.errors import RecipeError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.flow import FlowModel, FlowSettings, places
from guidance.latent.loading import ModelFolder
from guidance.latent.penultimate import Penultimate
from guidance.latent.t5 import T5Text
from guidance.latent.text import Rows, TextEncoder


class Flux(FlowModel):
    """A large transformer whose guidance was distilled into it (dev), or that draws in four steps (schnell)."""

    paper: ClassVar[str] = "Black Forest Labs 2024"
    takes: ClassVar[str] = "flux"
    default: ClassVar[str] = "flux-dev"
    net_kinds: ClassVar[tuple[str, ...]] = ("FluxTransformer2DModel",)

    @dataclass(frozen=True)
    class Settings(FlowSettings):
        model: str = setting("flux-dev", help="a name of `dreamlab models ls`, or the path of a folder")
        tiny: str = setting("taef1", help="the tiny autoencoder, as `model`; for hybrid and tiny")
        words: int = setting(0, low=0, high=512, help="tokens of the text that T5 hears; 0: as many as it was taught")
        distilled: float = setting(
            3.5, low=0, high=20, help="the guidance that dev is told it has; schnell is told none"
        )

    settings: Settings

    @classmethod
    def card(cls, settings: Any) -> Any:
        if settings.clip_skip:
            raise RecipeError("clip_skip: FLUX hears one vector of CLIP, of its last layer; leave it out")
        return super().card(settings)

    def text_encoder(self, device: torch.device) -> TextEncoder:
        guided = self.source.config("transformer").get("guidance_embeds")
        return VectorAndWords(self.source, self.settings.words or (512 if guided else 256), self.dtype, device)

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        height, width = z.shape[-2] // 2, z.shape[-1] // 2
        text, pooled = condition.rows["text"].to(z.dtype), condition.rows["pooled"].to(z.dtype)
        guided = self.module.config.guidance_embeds
        said: Tensor = self.net(
            hidden_states=packed(z), encoder_hidden_states=text, pooled_projections=pooled,
            timestep=time, guidance=torch.full_like(time, self.settings.distilled) if guided else None,
            img_ids=F.pad(places(height, width, z.device), (1, 0)), txt_ids=text.new_zeros(text.shape[1], 3),
            return_dict=False,
        )[0]  # fmt: skip
        return unpacked(said, height, width)


class VectorAndWords:
    """CLIP's pooled vector, not projected, and T5's states of all places, padding included."""

    def __init__(self, folder: ModelFolder, words: int, dtype: torch.dtype, device: torch.device) -> None:
        self.clip = Penultimate(folder, "", "CLIPTextModel", dtype, device)
        self.t5 = T5Text(folder, dtype, device, words, masked=False, parts=("tokenizer_2", "text_encoder_2"))

    def __call__(self, texts: Sequence[str]) -> Rows:
        return {"text": self.t5(texts)["text"], "pooled": self.clip(texts)[1]}


def packed(z: Tensor) -> Tensor:
    """[B, C, 2h, 2w] -> [B, h w, 4C]: two by two latents a token, channels before their places."""
    batch, channels, height, width = z.shape
    split = z.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """[B, h w, 4C] -> [B, C, 2h, 2w]."""
    split = tokens.reshape(len(tokens), height, width, -1, 2, 2)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, 2 * height, 2 * width)
