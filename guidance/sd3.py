# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.flow import FlowModel, FlowSettings
from guidance.latent.loading import ModelFolder
from guidance.latent.penultimate import Penultimate
from guidance.latent.t5 import T5Text
from guidance.latent.text import Rows, TextEncoder


class StableDiffusion3(FlowModel):
    """A transformer that hears three text encoders at once; the largest of them may be left out."""

    paper: ClassVar[str] = "Esser et al. 2024, arXiv:2403.03206"
    takes: ClassVar[str] = "sd3"
    default: ClassVar[str] = "sd3-medium"
    net_kinds: ClassVar[tuple[str, ...]] = ("SD3Transformer2DModel",)

    @dataclass(frozen=True)
    class Settings(FlowSettings):
        model: str = setting("sd3-medium", help="a name of `dreamlab models ls`, or the path of a folder")
        tiny: str = setting("taesd3", help="the tiny autoencoder, as `model`; for hybrid and tiny")
        words: int = setting(256, low=1, high=512, help="tokens of the text that T5 hears")
        t5: bool = setting(True, help="T5 is heard; without it 9.5 GB less are read, and zeros stand in its place")

    settings: Settings

    def size_of(self, source: ModelFolder) -> int:
        return 8 * cast(int, source.config("transformer")["sample_size"])

    def text_encoder(self, device: torch.device) -> TextEncoder:
        return ThreeTexts(self.source, self.settings, self.dtype, device)

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        rows = condition.rows
        said: Tensor = self.net(
            z, encoder_hidden_states=rows["text"].to(z.dtype), pooled_projections=rows["pooled"].to(z.dtype),
            timestep=1000 * time, return_dict=False,
        )[0]  # fmt: skip
        return said


class ThreeTexts:
    """Both CLIPs' states side by side, filled up with zeros to T5's width, and T5's behind them; both pooled."""

    def __init__(
        self, folder: ModelFolder, settings: StableDiffusion3.Settings, dtype: torch.dtype, device: torch.device
    ) -> None:
        kind, skip = "CLIPTextModelWithProjection", settings.clip_skip
        self.clips = [Penultimate(folder, number, kind, dtype, device, skip) for number in ("", "_2")]
        self.width, self.words = cast(int, folder.config("transformer")["joint_attention_dim"]), settings.words
        parts = ("tokenizer_3", "text_encoder_3")
        self.t5 = T5Text(folder, dtype, device, self.words, masked=False, parts=parts) if settings.t5 else None

    def __call__(self, texts: Sequence[str]) -> Rows:
        said = [clip(texts) for clip in self.clips]
        both = torch.cat([states for states, _ in said], -1)
        short = F.pad(both, (0, self.width - both.shape[-1]))
        long = short.new_zeros(len(texts), self.words, self.width) if self.t5 is None else self.t5(texts)["text"]
        return {"text": torch.cat([short, long], 1), "pooled": torch.cat([pooled for _, pooled in said], -1)}
