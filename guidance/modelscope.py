# SPDX-License-Identifier: Apache-2.0
"""ModelScope's text-to-video model and what is trained from it (Zeroscope): Stable Diffusion 2's text and latents, a
network with convolutions and attention through time. Both are for non-commercial use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dreamlab.core.settings import setting
from dreamlab.core.types import Condition
from guidance.latent.clips import ClipModel, ClipSettings, as_clips, as_frames
from guidance.sd import StableDiffusion


class ModelScope(ClipModel, StableDiffusion):
    """Clips by a text, each frame a latent of Stable Diffusion's own."""

    paper: ClassVar[str] = "Wang et al. 2023, arXiv:2308.06571"
    takes: ClassVar[str] = "modelscope"
    default: ClassVar[str] = "modelscope"
    single_kinds: ClassVar[tuple[str, ...]] = ()
    net_kinds: ClassVar[tuple[str, ...]] = ("UNet3DConditionModel",)

    @dataclass(frozen=True)
    class Settings(ClipSettings):
        model: str = setting("modelscope", help="a name (modelscope, zeroscope), or the path of a folder")

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Text and time go to the clip; the network repeats them by frames itself."""
        frames = self.settings.frames
        told = condition.rows["text"][::frames].to(z.dtype)
        said: Tensor = self.net(as_clips(z, frames), time[::frames], told, return_dict=False)[0]
        return as_frames(said)
