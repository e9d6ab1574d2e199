# SPDX-License-Identifier: Apache-2.0
"""What models of clips share: frames of one motion are one thing to them.

Where the autoencoder works picture by picture, a frame is a row of latents as everywhere, and a clip is rows that
follow one another. Where it compresses time (F frames to (F - 1) / 4 + 1 moments), a clip is one row [C moments, h, w],
a channel's moments side by side, and what it is told is one row too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.latent.adapter import NetAdapter
from guidance.latent.codec import Codec
from guidance.latent.loading import ModelFolder
from guidance.latent.memory import Ladder
from guidance.latent.model import LatentModel, ModelSettings


@dataclass(frozen=True)
class ClipSettings(ModelSettings):
    """What every model of clips can be told."""

    frames: int = setting(16, low=2, high=256, help="of a clip; `cameras.clip` and the rule's `frames` are as many")


class ClipModel(LatentModel):
    """Rows of latents are frames; `frames` of them, in order, are a clip."""

    embedded: ClassVar[str] = "toybox-video"

    settings: ClipSettings

    @classmethod
    def card(cls, settings: Any) -> GuidanceCard:
        return replace(super().card(settings), together=settings.frames, clip=True, whole=True)

    def __init__(self, settings: Any, source: ModelFolder) -> None:
        super().__init__(settings, source)
        self.ladder = Ladder(self.rows_of_clip, settings.rows, settings.recompute)

    @property
    def rows_of_clip(self) -> int:
        return self.settings.frames

    def encode(self, rgb: Tensor) -> Tensor:
        self.check_clips(len(rgb))
        return super().encode(rgb)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        self.check_clips(len(cameras))
        return super().condition(prompt, cameras, frames)

    def check_clips(self, count: int) -> None:
        frames = self.settings.frames
        if count % frames:
            raise InputError(f"{self.source.path}: looks at clips of {frames} frames, and {count} came; set `frames`")

    def adapter(self, rank: int) -> NetAdapter:
        return ClipAdapter(self, rank, self.rows_of_clip)


class ClipAdapter(NetAdapter):
    """Its network embeds one time for a clip, so the camera it hears is that of the clip's first row."""

    def __init__(self, model: ClipModel, rank: int, rows: int) -> None:
        super().__init__(model, rank)
        self.rows = rows

    def apply(
        self, params: Mapping[str, Tensor], z_t: Tensor, t_index: Tensor, condition: Condition, camera: Tensor
    ) -> Tensor:
        return super().apply(params, z_t, t_index, condition, camera[:: self.rows])


def as_clips(z: Tensor, frames: int) -> Tensor:
    """[M F, C, h, w] -> [M, C, F, h, w]."""
    return z.unflatten(0, (-1, frames)).transpose(1, 2)


def as_frames(clips: Tensor) -> Tensor:
    """Inverse of `as_clips`."""
    return clips.transpose(1, 2).flatten(0, 1)


# ---- time that is compressed -----------------------------------------------------------------------------------------
class FoldedModel(ClipModel):
    """A row of latents is a clip."""

    conv: ClassVar[bool] = False
    stride: ClassVar[int] = 4  # frames of a moment; the first frame has one of its own
    patch: ClassVar[int] = 2  # latents of a token's side

    @classmethod
    def card(cls, settings: Any) -> GuidanceCard:
        frames, stride = settings.frames, cls.stride
        if (frames - 1) % stride:
            low = frames - (frames - 1) % stride
            raise RecipeError(
                f"frames: {frames}; {cls.__name__} takes clips of {stride} k + 1: {low} or {low + stride}"
            )
        return replace(super().card(settings), folds=frames, moments=moments_of(frames, stride))

    @property
    def rows_of_clip(self) -> int:
        return 1

    def autoencoder(self) -> Codec:
        if self.settings.encoder != "exact":
            raise InputError(
                f"encoder: {self.settings.encoder}: no tiny autoencoder compresses time; leave it at exact"
            )
        return ClipCodec(self.source.network("vae", (self.vae_kind,), self.picture_dtype()), self.settings.frames)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        self.check_clips(len(cameras))
        first = torch.arange(0, len(cameras), self.settings.frames)
        return LatentModel.condition(self, prompt, cameras[first], frames.take(first.tolist()))

    def to(self, device: torch.device | str) -> Any:
        super().to(device)
        tile = self.codec.factor * self.patch
        if self.side % tile:
            raise InputError(f"size: {self.side} is no multiple of {tile}, a token's side in pixels")
        return self

    def folded(self, clips: Tensor) -> Tensor:
        """[M, C, moments, h, w] -> rows."""
        return clips.flatten(1, 2)

    def unfolded(self, z: Tensor) -> Tensor:
        """Rows -> [M, C, moments, h, w]."""
        return unfolded(z, self.settings.frames, self.stride)


class ClipCodec(Codec):
    """Latents of clips [B F, 3, H, W] as rows [B, C moments, h, w], by an autoencoder whose time is compressed."""

    def __init__(self, vae: Any, frames: int) -> None:
        config = vae.config
        self.vae, self.tiny, self.way, self._judged = vae, None, "exact", True
        self.together = frames
        if "latents_mean" in config and config.latents_mean is not None:  # Wan: each channel by its own statistics
            self.mean, self.std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
            self.factor, self.channels = int(config.scale_factor_spatial), int(config.z_dim)
        else:
            self.mean, self.std = torch.zeros(1), torch.tensor([1 / config.scaling_factor])
            self.factor, self.channels = 2 ** (len(config.block_out_channels) - 1), int(config.latent_channels)

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.mean, self.std = (value.to(device).reshape(-1, 1, 1, 1) for value in (self.mean, self.std))

    def by_vae(self, x: Tensor) -> Tensor:
        mode: Tensor = self.vae.encode(as_clips(x, self.together)).latent_dist.mode()
        return ((mode - self.mean) / self.std).flatten(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            clips = z.unflatten(1, (self.channels, -1)) * self.std + self.mean
            made: Tensor = self.vae.decode(clips.to(self.vae.dtype)).sample
        return as_frames(made).float()


def moments_of(frames: int, stride: int) -> int:
    return (frames - 1) // stride + 1


def unfolded(z: Tensor, frames: int, stride: int) -> Tensor:
    """[M, C moments, h, w] -> [M, C, moments, h, w]."""
    return z.unflatten(1, (-1, moments_of(frames, stride)))
