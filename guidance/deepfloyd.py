# SPDX-License-Identifier: Apache-2.0
"""DeepFloyd IF, first stage: it looks at pixels, 64 by 64 of them, and hears its text from T5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from dreamlab.core.errors import RecipeError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.loading import ModelFolder
from guidance.latent.memory import Ladder
from guidance.latent.model import LatentModel, ModelSettings
from guidance.latent.t5 import T5Text
from guidance.latent.text import Rows, TextEncoder


class Pixels:
    """Pictures as they are, in the place of an autoencoder."""

    factor, channels = 1, 3

    def to(self, device: torch.device) -> None:
        """There is nothing to be moved."""

    def encode(self, pictures: Tensor, ladder: Ladder) -> Tensor:
        return pictures

    def decode(self, z: Tensor) -> Tensor:
        return z


class DeepFloyd(LatentModel):
    """A diffusion model of small pictures, without an autoencoder: no gradient has to pass through one."""

    paper: ClassVar[str] = "Saharia et al. 2022, arXiv:2205.11487; DeepFloyd 2023"
    takes: ClassVar[str] = "deepfloyd"
    default: ClassVar[str] = "if-xl"

    @dataclass(frozen=True)
    class Settings(ModelSettings):
        model: str = setting("if-xl", help="a name of `dreamlab models ls`, or the path of a folder")

    @classmethod
    def card(cls, settings: ModelSettings) -> Any:
        if settings.encoder != "exact":
            raise RecipeError(
                f"encoder: {settings.encoder}: DeepFloyd looks at pixels and has no encoder; leave it out"
            )
        if settings.clip_skip:
            raise RecipeError("clip_skip: DeepFloyd hears T5, which has no layer to be skipped; leave it out")
        return super().card(settings)

    def __init__(self, settings: Settings, source: ModelFolder) -> None:
        super().__init__(settings, source)
        self.trained_at: int = cast(int, source.config("unet")["sample_size"])  # type: ignore[misc]

    def text_encoder(self, device: torch.device) -> TextEncoder:
        heard = T5Text(self.source, self.dtype, device, 77, masked=True, clean=plain)

        def text(texts: Sequence[str]) -> Rows:
            return {"text": heard(texts)["text"]}  # the network sees all 77, the padding as T5 left it

        return text

    def autoencoder(self) -> Any:
        return Pixels()

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        said: Tensor = self.net(z, time, condition.rows["text"].to(z.dtype), return_dict=False)[0]
        return said[:, : z.shape[1]]  # the rest is its variance, which samplers use


def plain(text: str) -> str:
    """As the model's own code words a caption where no cleaning is asked for."""
    return text.lower().strip()
