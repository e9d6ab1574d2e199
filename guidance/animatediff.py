# SPDX-License-Identifier: Apache-2.0
"""AnimateDiff: motion modules between the layers of any Stable Diffusion 1.5, which make of its pictures a clip.

Two places: `model`, a Stable Diffusion 1.5 folder, and `motion`, an adapter's folder or a file of the original code
(mm_sd_v15_v2 and its kin). The noise is the adapter's, linear betas, not that of the folder beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.built import filled
from guidance.latent.clips import ClipModel, ClipSettings, as_clips, as_frames
from guidance.latent.loading import ModelFolder, first_line, library, quiet
from guidance.latent.single_file import opened
from guidance.latent.tables import Clock, clock_of
from guidance.sd import StableDiffusion

HEADS = 8  # of every motion module that was published; no file says it


class AnimateDiff(ClipModel, StableDiffusion):
    """Clips by a text, each frame a latent of Stable Diffusion's own."""

    paper: ClassVar[str] = "Guo et al. 2023, arXiv:2307.04725"

    single_kinds: ClassVar[tuple[str, ...]] = ("sd1",)

    @dataclass(frozen=True)
    class Settings(ClipSettings):
        model: str = setting("sd15", help="Stable Diffusion 1.5, or what is fine-tuned of it: a name or a folder")
        motion: str = setting("animatediff-v15-2", help="the motion adapter: a name, a folder, or an original file")
        betas: str = setting("linear", choices=("linear", "scaled_linear"), help="noise the adapter was trained with")

    settings: Settings

    @classmethod
    def models(cls, settings: Any) -> tuple[tuple[str, str], ...]:
        return (*super().models(settings), (settings.motion, "animatediff"))

    def clock_of(self, source: ModelFolder) -> Clock:
        own: dict[str, Any] = {**source.config("scheduler")}
        own |= {"beta_schedule": self.settings.betas, "trained_betas": None}
        return clock_of(own, str(source.path / "scheduler"))

    def load(self) -> None:
        unet = self.source.network(self.net_part, self.net_kinds, self.dtype)
        motion = motion_adapter(self.settings.motion, self.dtype, self.settings.legacy)
        self.module = animated(unet, motion, self.settings.motion)
        longest = int(motion.config.motion_max_seq_length)
        if self.settings.frames > longest:
            raise InputError(f"frames: {self.settings.frames}; {self.settings.motion} knows clips of at most {longest}")
        self.codec = self.autoencoder()

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The text goes to every frame, the time to the clip."""
        frames = self.settings.frames
        told = condition.rows["text"].to(z.dtype)
        said: Tensor = self.net(as_clips(z, frames), time[::frames], told, return_dict=False)[0]
        return as_frames(said)


def animated(unet: Any, motion: Any, where: str) -> Any:
    """The network of both, every tensor of theirs in it and none besides."""
    diffusers = library("diffusers")
    try:
        with quiet(), torch.device("meta"):
            net = diffusers.UNetMotionModel.from_unet2d(unet, motion, load_weights=False)
    except ValueError as error:
        raise ModelError(f"{where}: does not fit the model beside it ({first_line(error)})") from None
    return filled(net, {**unet.state_dict(), **motion.state_dict()}, unet.dtype, where)


def motion_adapter(model: str, dtype: torch.dtype, legacy: str = "") -> Any:
    """An adapter of a folder, or of one file under the original names; a pickle only if it is called `legacy`."""
    from dreamlab.hub import located

    place = located(model, "animatediff")
    if place.is_dir():
        folder = ModelFolder(place.parent)
        config, state = folder.config(place.name), folder.tensors(place.name, dtype)
        if config.get("_class_name") != "MotionAdapter":
            raise ModelError(f"{place}: is a {config.get('_class_name')}; `motion` takes a MotionAdapter")
    else:
        file = opened(place, legacy == place.name)
        config, state = original(file.read(list(file.shapes)), str(place))
    with quiet(), torch.device("meta"):
        net = library("diffusers").MotionAdapter.from_config(dict(config))
    made = {name: sinusoid(value.shape[1], value.shape[2])[None] for name, value in net.state_dict().items()
            if name.endswith(PLACES)}  # fmt: skip
    return filled(net, made | state, dtype, str(place))


def sinusoid(length: int, width: int) -> Tensor:
    """[length, width] places in time (Vaswani et al. 2017), which files may leave out."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


# ---- files of the original code --------------------------------------------------------------------------------------
PLACES, THEIR_PLACES = ".pos_embed.pe", ".pos_encoder.pe"
RENAMED = (
    (".temporal_transformer.", "."), (".attention_blocks.0.", ".attn1."), (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."), (".norms.1.", ".norm2."), (".ff_norm.", ".norm3."),
)  # fmt: skip


def original(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors under diffusers' names; what the shapes do not say is the same in all that exist."""
    made, modules, widths, longest = {}, list[int](), dict[int, int](), 0
    for name, value in state.items():
        name = name.removeprefix("module.")
        if name.endswith(THEIR_PLACES):
            longest = value.shape[1]
            if not torch.allclose(value[0].float(), sinusoid(longest, value.shape[2]), atol=1e-2):
                raise ModelError(f"{where}: {name} is no sinusoid; this is no motion module of AnimateDiff")
            continue
        for old, new in RENAMED:
            name = name.replace(old, new)
        made[name] = value
        parts = name.split(".")
        if parts[0] == "down_blocks" and name.endswith("proj_in.weight"):
            widths[int(parts[1])] = value.shape[0]
            modules.append(int(parts[3]) + 1)
    if not widths or not longest:
        raise ModelError(f"{where}: no motion modules of AnimateDiff; give an adapter's folder or an mm_*.safetensors")
    config: dict[str, Any] = {
        "block_out_channels": [widths[block] for block in sorted(widths)],
        "motion_layers_per_block": max(modules),
        "motion_max_seq_length": longest,
        "motion_num_attention_heads": HEADS,
        "use_motion_mid_block": any(name.startswith("mid_block.") for name in made),
    }
    return config, made
