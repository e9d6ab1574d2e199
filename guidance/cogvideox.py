# SPDX-License-Identifier: Apache-2.0
"""CogVideoX 2b, 5b and 1.5: a transformer that predicts v of clips whose time is compressed by four.

Noise ends in nothing (zero terminal SNR), shifted in 2b; a text is 226 tokens of T5, its padding heard like the rest.
2b adds sines to its tokens, 5b turns queries and keys by their places; a square picture stands in the middle of the
grid of the shape they were trained at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.clips import ClipCodec, ClipSettings, FoldedModel, moments_of
from guidance.latent.codec import Codec
from guidance.latent.loading import library
from guidance.latent.t5 import T5Text
from guidance.latent.text import TextEncoder


class CogVideoX(FoldedModel):
    """Clips by a text."""

    paper: ClassVar[str] = "Yang et al. 2024, arXiv:2408.06072"
    takes: ClassVar[str] = "cogvideox"
    default: ClassVar[str] = "cogvideox-2b"
    trained_at: ClassVar[int] = 480
    net_part: ClassVar[str] = "transformer"
    net_kinds: ClassVar[tuple[str, ...]] = ("CogVideoXTransformer3DModel",)
    vae_kind: ClassVar[str] = "AutoencoderKLCogVideoX"

    @dataclass(frozen=True)
    class Settings(ClipSettings):
        model: str = setting("cogvideox-2b", help="a name of `dreamlab models ls`, or the path of a folder")
        frames: int = setting(17, low=5, high=61, help="of a clip: 4 k + 1; trained with 49")

    settings: Settings

    def text_encoder(self, device: torch.device) -> TextEncoder:
        return T5Text(self.source, self.dtype, device, self.module.config.max_text_seq_length, masked=False)

    def load(self) -> None:
        super().load()
        config = self.module.config
        if config.in_channels != self.codec.channels:
            raise ModelError(f"{self.source.path}: is told a picture beside the clip; its model of text alone is meant")
        moments = moments_of(self.settings.frames, self.stride)
        if moments % (config.patch_size_t or 1):
            raise InputError(f"frames: {self.settings.frames}; this model takes clips of 8 k + 5: 13, 21, ...")

    def autoencoder(self) -> Codec:
        made = super().autoencoder()
        return OddCodec(made.vae, self.settings.frames)

    def to(self, device: torch.device | str) -> Any:
        super().to(device)
        self.turns = self.rotary() if self.module.config.use_rotary_positional_embeddings else None
        return self

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Frames come before channels here."""
        clips, text = self.unfolded(z).transpose(1, 2), condition.rows["text"].to(z.dtype)
        said: Tensor = self.net(clips, text, time, image_rotary_emb=self.turns, return_dict=False)[0]
        return self.folded(said.transpose(1, 2))

    def rotary(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the tokens' places."""
        config = self.module.config
        side = self.side // self.codec.factor // config.patch_size
        grid = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
        moments = moments_of(self.settings.frames, self.stride)
        told: dict[str, Any] = {"embed_dim": config.attention_head_dim, "grid_size": (side, side)}
        if config.patch_size_t is None:
            told |= {"crops_coords": middle(grid), "temporal_size": moments}
        else:  # 1.5: the corner of the largest grid
            told |= {"crops_coords": None, "temporal_size": moments // config.patch_size_t}
            told |= {"grid_type": "slice", "max_size": grid}
        made: tuple[Tensor, Tensor] = library("diffusers").models.embeddings.get_3d_rotary_pos_embed(
            **told, device=self.device
        )
        return made


class OddCodec(ClipCodec):
    """Its decoder knows the first frame, which is a moment by itself, by the number of moments being odd."""

    def decode(self, z: Tensor) -> Tensor:
        clips = z.unflatten(1, (self.channels, -1))
        if clips.shape[2] % 2:
            return super().decode(z)
        longer = torch.cat([clips[:, :, :1], clips], 2).flatten(1, 2)
        return super().decode(longer).unflatten(0, (len(z), -1))[:, -self.together :].flatten(0, 1)


def middle(grid: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last row and column of the largest square in the middle of a grid."""
    side = min(grid)
    top, left = (round((length - side) / 2) for length in grid)
    return (top, left), (top + side, left + side)
