# SPDX-License-Identifier: Apache-2.0
"""Wan 2.1 and 2.2: a transformer that predicts the velocity of clips whose time is compressed by four.

2.2 has two experts: one for times of much noise, at and above a boundary that the folder states, one for the rest. The
models that follow a picture are told the clip that begins with it, as latents with a mask of what is given, and 2.1's
also what CLIP sees in it; the text alone is left out of the unconditional half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import ModelError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from guidance.latent.clips import ClipSettings, FoldedModel, moments_of
from guidance.latent.loading import ModelFolder
from guidance.latent.pictured import Pictured
from guidance.latent.pictures import before, clip_pixels, followed
from guidance.latent.t5 import T5Text, tidy
from guidance.latent.tables import Clock, clock_of
from guidance.latent.text import TextEncoder

LENGTH = 512  # of a text, in tokens
PRECISE = (
    "rope",
    "time_embedder",
    "scale_shift_table",
    "norm1",
    "norm2",
    "norm3",
)  # in float32 whatever the rest is in
STEPS = 1000  # its times run from 0 to this


class Wan(FoldedModel):
    """Clips by a text."""

    paper: ClassVar[str] = "Wan team 2025, arXiv:2503.20314"
    takes: ClassVar[str] = "wan"
    default: ClassVar[str] = "wan21-t2v-1.3b"
    trained_at: ClassVar[int] = 480
    net_part: ClassVar[str] = "transformer"
    net_kinds: ClassVar[tuple[str, ...]] = ("WanTransformer3DModel",)
    vae_kind: ClassVar[str] = "AutoencoderKLWan"
    shows: ClassVar[bool] = False  # it is told a picture

    @dataclass(frozen=True)
    class Settings(ClipSettings):
        model: str = setting("wan21-t2v-1.3b", help="a name of `dreamlab models ls`, or the path of a folder")
        frames: int = setting(17, low=5, high=61, help="of a clip: 4 k + 1; `cameras.clip` and `frames` are as many")
        shift: float = setting(0.0, low=0, high=100, help="of its times towards noise; 0: as its folder says")

    settings: Settings

    def __init__(self, settings: Any, source: ModelFolder) -> None:
        super().__init__(settings, source)
        said = source.index().get("boundary_ratio")
        self.boundary = None if said is None else float(cast(float, said))
        self.time_part = "condition_embedder.time_embedder" if self.boundary is None else ""  # type: ignore[misc]

    def clock_of(self, source: ModelFolder) -> Clock:
        return clock_of(source.config("scheduler"), str(source.path / "scheduler"), shift=self.settings.shift)

    def picture_dtype(self) -> torch.dtype:
        """Its autoencoder is meant for float32."""
        return torch.float32

    def text_encoder(self, device: torch.device) -> TextEncoder:
        how: dict[str, Any] = {"masked": True, "cut": True, "clean": tidy, "kind": "UMT5EncoderModel"}
        return T5Text(self.source, self.dtype, device, LENGTH, **how)

    def load(self) -> None:
        super().load()
        if self.boundary is not None:
            little = self.source.network("transformer_2", self.net_kinds, self.dtype)
            self.module = Experts(self.module, little, self.boundary)
        own, taken = self.codec.channels, int(self.source.config(self.net_part)["in_channels"])
        if (taken != own) != self.shows:
            kind = "wan" if self.shows else "wan-i2v"
            raise ModelError(f"{self.source.path}: takes {taken} channels, and a clip has {own}; use kind: {kind}")

    def to(self, device: torch.device | str) -> Any:
        super().to(device)
        if isinstance(self.module, Experts) and self.settings.compile:
            # Which of them answers is known at the call alone, so each is compiled by itself.
            much, little = (torch.compile(net, fullgraph=True) for net in (self.module.much, self.module.little))
            self.net = Experts(much, little, self.module.boundary)
        return self

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        clips = self.unfolded(z)
        given = self.given(clips, condition)
        text, image = condition.rows["text"].to(z.dtype), condition.rows.get("seen")
        said: Tensor = self.net(
            given, STEPS * time, text, None if image is None else image.to(z.dtype), return_dict=False
        )[0]
        return self.folded(said)

    def given(self, clips: Tensor, condition: Condition) -> Tensor:
        """What the network is shown of the clips and beside them."""
        return clips


class WanPicture(Pictured, Wan):
    """Clips that begin with the prompt's picture, by a text."""

    paper: ClassVar[str] = "Wan team 2025, arXiv:2503.20314"
    takes: ClassVar[str] = "wan-i2v"
    default: ClassVar[str] = "wan21-i2v-14b-480p"
    shows: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(Wan.Settings):
        model: str = setting("wan21-i2v-14b-480p", help="a name of `dreamlab models ls`, or the path of a folder")
        backdrop: float = setting(1.0, low=0, high=1, help="grey behind the picture's object; 1 is white")

    settings: Settings

    def look_at(self, given: Reference) -> Mapping[str, Tensor]:
        """The clip that begins with the picture and is grey then, as latents; before them four masks of which frames of
        a moment are given; and what CLIP sees where the model listens to that."""
        count, stride = self.settings.frames, self.stride
        picture = before(given, self.settings.backdrop).to(self.device)
        first = self.seen(picture)
        clip = torch.cat([first, first.new_zeros(count - 1, *first.shape[1:])])
        z = self.unfolded(self.codec.encode(clip, self.ladder))
        mask = z.new_zeros(1, stride, moments_of(count, stride), *z.shape[-2:])
        mask[:, :, 0] = 1
        made = {"given": torch.cat([mask, z], 1)}
        if self.source.config(self.net_part).get("image_dim") is not None:
            tower = self.source.encoder("image_encoder", "CLIPVisionModel", self.dtype).to(self.device)
            pixels = clip_pixels(picture, int(tower.config.image_size))  # type: ignore[union-attr, arg-type]
            made["seen"] = tower(pixels.to(self.dtype), output_hidden_states=True).hidden_states[-2]
        return made

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        rows = self.seen_pictures[followed(prompt, "wan-i2v")]
        return {"": {name: row.expand(len(cameras), *row.shape[1:]) for name, row in rows.items()}}

    def given(self, clips: Tensor, condition: Condition) -> Tensor:
        return torch.cat([clips, condition.rows["given"].to(clips.dtype)], 1)


class Experts(nn.Module):
    """Two networks, of which each row's time says which one answers."""

    def __init__(self, much: Any, little: Any, boundary: float) -> None:
        super().__init__()
        self.much, self.little, self.boundary = much, little, boundary

    def forward(self, clips: Tensor, time: Tensor, *told: Tensor | None, return_dict: bool) -> tuple[Tensor]:
        noisy = time >= self.boundary * STEPS
        said = torch.empty(0)
        for net, rows in ((self.much, noisy.nonzero()[:, 0]), (self.little, (~noisy).nonzero()[:, 0])):
            if len(rows) == 0:
                continue
            own = [None if row is None else row[rows] for row in told]
            answer: Tensor = net(clips[rows], time[rows], *own, return_dict=return_dict)[0]
            if len(rows) == len(clips):
                return (answer,)
            said = said if said.numel() else answer.new_zeros(len(clips), *answer.shape[1:])
            said = said.index_copy(0, rows, answer)
        return (said,)
