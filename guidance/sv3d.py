# SPDX-License-Identifier: Apache-2.0
"""SV3D: Stable Video Diffusion taught to walk around the object of a picture once, in 21 frames.

The last frame stands at the picture's own camera, the others in equal turns before it. SV3D_u is told nothing of
cameras and keeps the picture's height; SV3D_p is told of each frame its polar angle, from above, and how far around it
is from the picture's camera, in radians. Both come as waves added to the time of their frame, beside those of the
noise on the picture; the network, its sigmas and its two looks at the picture are those of Stable Video Diffusion
(guidance/svd.py). Their own sampler guides a frame the more the further it is from the picture, from 1 to 2.5; rules
here guide all alike. That frames go around as azimuths grow, counter-clockwise from above, is how the data of its
training were rendered and not said by its code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard, Stand
from dreamlab.core.errors import ModelError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.latent.adapter import NetAdapter
from guidance.latent.pictured import FixedViews
from guidance.latent.pictures import followed
from guidance.svd import PicturedSettings, PicturedVideo

VARIANTS = ("auto", "u", "p")
BACKDROPS = {1.0: "white", 0.5: "gray", 0.0: "black"}  # that a stage can have
ANGLE = 2  # waves of an angle, in those of the noise's deviation
EXACT = 3  # decimals of a degree within which a frame is the picture's own, and not a turn away from it


def variant_of(settings: StableOrbit.Settings) -> str:
    """p unless a setting or the model's name says u."""
    if settings.variant != "auto":
        return settings.variant
    return "u" if "sv3d_u" in settings.model.lower().replace("-", "_") else "p"


class StableOrbit(FixedViews, PicturedVideo):
    """The object of a picture from 21 cameras around it."""

    paper: ClassVar[str] = "Voleti et al. 2024, arXiv:2403.12008"
    takes: ClassVar[str] = "sv3d"
    default: ClassVar[str] = "sv3d-p"
    embedded: ClassVar[str] = "toybox-novel"
    single_kinds: ClassVar[tuple[str, ...]] = ("sv3d",)
    time_part: ClassVar[str] = "net.time_embedding"

    @dataclass(frozen=True)
    class Settings(PicturedSettings):
        model: str = setting("sv3d-p", help="a name of `dreamlab models ls`, or the path of the file or of a folder")
        variant: str = setting("auto", choices=VARIANTS, help="p: told the cameras; auto: by the model's name")
        frames: int = setting(21, low=2, high=64, help="of an orbit, trained with 21; `cameras.ring` is as many")
        augment: float = setting(1e-5, low=0, high=1, help="deviation of the noise on the picture beside the frames")

    settings: Settings

    @classmethod
    def card(cls, settings: Any) -> GuidanceCard:
        """Frames are views of one moment, each a row of latents, which have one time together."""
        turn = 360 / settings.frames
        stands = tuple(Stand(turn * (i + 1)) for i in range(settings.frames))
        level = variant_of(settings) == "u"
        made = replace(super().card(settings), clip=False, stands=stands, level=level)
        return replace(made, backdrop=BACKDROPS.get(settings.backdrop, ""))

    def check_vector(self, width: int, each: int) -> None:
        found = {each: "u", each + 2 * ANGLE * each: "p"}.get(width)
        if found is None:
            raise ModelError(f"{self.source.path}: is told {width} waves beside the picture; no SV3D is: is it SVD?")
        if found != (wanted := variant_of(self.settings)):
            raise ModelError(f"{self.source.path}: is an SV3D_{found}, not an SV3D_{wanted}; set variant: {found}")
        self.each, self.posed = each, found == "p"

    def load(self) -> None:
        super().load()
        self.module = TimedFrames(self.module)

    @property
    def together_now(self) -> int:
        return self.settings.frames

    def guided_by(self, most: float) -> tuple[float, ...]:
        """As far as a frame is from the picture's own: least at both ends of the orbit, most half way."""
        places = [i / (self.settings.frames - 1) for i in range(self.settings.frames)]
        return tuple(1 + (most - 1) * (1 - abs(2 * place - 1)) for place in places)

    def adapter(self, rank: int) -> NetAdapter:
        """Each frame has a time of its own here, and so a camera."""
        return NetAdapter(self, rank)

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        """With and without the picture the same."""
        given = followed(prompt, self.takes).camera
        parts = [waves(torch.full((len(cameras),), self.settings.augment), self.each).to(self.device)]
        if self.posed:
            polar, around = angles(cameras, given.to(cameras.azimuth_deg.device))
            parts += [waves(angle, ANGLE * self.each).to(self.device) for angle in (polar, around)]
        return {"": {"vector": torch.cat(parts, -1)}}

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        clips, seen = self.clips(z, condition.rows)
        said: Tensor = self.net(clips, time, seen, condition.rows["vector"].to(z.dtype))
        return said.flatten(0, 1)


def angles(cameras: Cameras, given: Cameras) -> tuple[Tensor, Tensor]:
    """[B] polar angles, and how far around each is from the picture's camera, in [0, 2 pi): its own is at 0, never a
    turn away, which other waves would say."""
    around = torch.remainder((cameras.azimuth_deg - given.azimuth_deg).round(decimals=EXACT), 360.0)
    return torch.deg2rad(90 - cameras.elevation_deg), torch.deg2rad(around)


def waves(x: Tensor, width: int) -> Tensor:
    """[B] -> [B, width]: cosines, then sines, of wavelengths from 2 pi to 20000 pi."""
    half = width // 2
    speed = torch.exp(torch.arange(half, device=x.device) * (-math.log(10000.0) / half))
    phase = x.float()[:, None] * speed
    return torch.cat([phase.cos(), phase.sin()], -1)


class TimedFrames(nn.Module):
    """Stable Video Diffusion's network, each frame of which has a time of its own; diffusers' has one for a clip."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, clips: Tensor, time: Tensor, seen: Tensor, vector: Tensor) -> Tensor:
        """Of clips [B, F, C, h, w], times [B F], what was seen [B, 1, D] and what is told of each frame [B F, V]."""
        net, (batch, frames) = self.net, clips.shape[:2]
        embedding = net.time_embedding(net.time_proj(time).to(clips.dtype)) + net.add_embedding(vector)
        how = {"temb": embedding, "image_only_indicator": clips.new_zeros(batch, frames)}
        seeing = how | {"encoder_hidden_states": seen.repeat_interleave(frames, 0, output_size=batch * frames)}
        x = net.conv_in(clips.flatten(0, 1))
        kept = [x]
        for block in net.down_blocks:
            x, made = block(x, **(seeing if hasattr(block, "attentions") else how))
            kept += made
        x = net.mid_block(x, **seeing)
        for block in net.up_blocks:
            count = len(block.resnets)
            beside, kept = tuple(kept[-count:]), kept[:-count]
            x = block(x, res_hidden_states_tuple=beside, **(seeing if hasattr(block, "attentions") else how))
        x = net.conv_out(net.conv_act(net.conv_norm_out(x)))
        return x.unflatten(0, (batch, frames))
