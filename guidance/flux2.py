# SPDX-License-Identifier: Apache-2.0
"""FLUX.2-klein, the small one of four billion, in its undistilled form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.errors import ModelError, RecipeError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.codec import Codec
from guidance.latent.flow import FlowModel, FlowSettings, places
from guidance.latent.loading import ModelFolder
from guidance.latent.qwen import QwenText
from guidance.latent.text import Rows, TextEncoder


class Klein(FlowModel):
    """A transformer of the newest kind at the size of SDXL's, which hears a language model."""

    paper: ClassVar[str] = "Black Forest Labs 2025"
    takes: ClassVar[str] = "klein"
    default: ClassVar[str] = "klein-4b"
    net_kinds: ClassVar[tuple[str, ...]] = ("Flux2Transformer2DModel",)
    vae_kind: ClassVar[str] = "AutoencoderKLFlux2"
    time_part: ClassVar[str] = "time_guidance_embed"

    @dataclass(frozen=True)
    class Settings(FlowSettings):
        model: str = setting("klein-4b", help="a name of `dreamlab models ls`, or the path of a folder")
        words: int = setting(512, low=32, high=1024, help="tokens of the message that the language model reads")

    settings: Settings

    @classmethod
    def card(cls, settings: Any) -> Any:
        if settings.encoder != "exact":
            raise RecipeError(f"encoder: {settings.encoder}: there is no tiny autoencoder for FLUX.2; leave it out")
        if settings.clip_skip:
            raise RecipeError("clip_skip: FLUX.2 hears a language model, not CLIP; leave it out")
        return super().card(settings)

    def __init__(self, settings: Settings, source: ModelFolder) -> None:
        super().__init__(settings, source)
        if source.config("transformer").get("guidance_embeds"):
            raise ModelError(f"{source.path}: is the large FLUX.2, which is told its guidance; klein is not")

    def autoencoder(self) -> Codec:
        return Whitened(self.source.network("vae", (self.vae_kind,), self.picture_dtype()))

    def text_encoder(self, device: torch.device) -> TextEncoder:
        heard = QwenText(
            self.source, "Qwen3ForCausalLM", self.dtype, device,
            layers=(9, 18, 27), length=self.settings.words, thinking=False,
        )  # fmt: skip

        def text(texts: Sequence[str]) -> Rows:
            return {"text": heard(texts)["text"]}  # of all places, padding included

        return text

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        text = condition.rows["text"].to(z.dtype)
        where = F.pad(places(z.shape[-2], z.shape[-1], z.device), (1, 1))  # 0, row, column, 0
        order = F.pad(torch.arange(text.shape[1], device=z.device).float()[:, None], (3, 0))  # 0, 0, 0, place
        said: Tensor = self.net(
            hidden_states=z.flatten(2).transpose(1, 2), encoder_hidden_states=text, timestep=time, guidance=None,
            img_ids=where.expand(len(z), -1, -1), txt_ids=order.expand(len(z), -1, -1), return_dict=False,
        )[0]  # fmt: skip
        return said.transpose(1, 2).reshape(z.shape)


class Whitened(Codec):
    """FLUX.2's latents: of the autoencoder's 32 channels two by two in one place, each of the 128 with the mean and
    the deviation that its batch norm has counted taken out."""

    def __init__(self, vae: Any) -> None:
        self.vae, self.tiny, self.way, self.floor, self._judged = vae, None, "exact", 0.0, True
        self.factor = 2 * 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = 4 * int(vae.config.latent_channels)

    def counted(self) -> tuple[Tensor, Tensor]:
        mean, variance = self.vae.bn.running_mean, self.vae.bn.running_var
        deviation: Tensor = (variance + self.vae.config.batch_norm_eps).sqrt()
        return mean[None, :, None, None], deviation[None, :, None, None]

    def by_vae(self, x: Tensor) -> Tensor:
        mean, deviation = self.counted()
        mode: Tensor = self.vae.encode(x).latent_dist.mode()
        return (F.pixel_unshuffle(mode, 2) - mean) / deviation

    def decode(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            mean, deviation = self.counted()
            made: Tensor = self.vae.decode(F.pixel_shuffle(z.to(self.vae.dtype) * deviation + mean, 2)).sample
        return made.float()
