# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion told a surface by control networks: depth, normals, or the light on it; several at once add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import ModelError, RecipeError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.latent.controls import CHANNELS, MAPS, picture, residuals, resized
from guidance.latent.loading import ModelFolder
from guidance.latent.places import network
from guidance.sd import StableDiffusion
from guidance.sdxl import StableDiffusionXL


class ControlNet(StableDiffusion):
    """Stable Diffusion that is shown depth, normals or light of the frames' surface, and paints what lies there."""

    paper: ClassVar[str] = "Zhang et al. 2023, arXiv:2302.05543; light: DreamMat, arXiv:2405.17176"
    net_kind: ClassVar[str] = "ControlNetModel"

    @dataclass(frozen=True)
    class Settings(StableDiffusion.Settings):
        controls: tuple[str, ...] = setting(("controlnet-depth-sd15",), help="control networks, each as `model`")
        maps: tuple[str, ...] = setting(("depth",), choices=MAPS, help="what each of them is shown")
        scales: tuple[float, ...] = setting((1.0,), low=0, high=4, help="how much each of them counts")

    settings: Settings
    embedded: ClassVar[str] = "toybox-control"

    @classmethod
    def models(cls, settings: Any) -> tuple[tuple[str, str], ...]:
        return (*super().models(settings), *((name, "controlnet") for name in settings.controls))

    @classmethod
    def card(cls, settings: Any) -> GuidanceCard:
        counts = {len(settings.controls), len(settings.maps), len(settings.scales)}
        if len(counts) > 1 or not settings.controls:
            raise RecipeError(f"{cls.__name__}: controls, maps and scales must be as many: one of each for a network")
        shown = set(settings.maps)
        return replace(super().card(settings), normals=bool(shown - {"depth"}), lights="light" in shown)

    def __init__(self, settings: Any, source: ModelFolder) -> None:
        super().__init__(settings, source)
        self.controls: list[Any] = []

    def load(self) -> None:
        super().load()
        for name, shown in zip(self.settings.controls, self.settings.maps, strict=True):
            net = network(name, "controlnet", (self.net_kind,), self.dtype, self.settings.legacy)
            if net.config.conditioning_channels != CHANNELS[shown]:
                channels = net.config.conditioning_channels
                raise ModelError(f"{name}: is shown pictures of {channels} channels; {shown} has {CHANNELS[shown]}")
            if net.config.cross_attention_dim != self.module.config.cross_attention_dim:
                raise ModelError(f"{name}: was trained beside another model than {self.source.path}")
            self.controls.append(net)

    def to(self, device: Any) -> Any:
        super().to(device)
        self.controls = [self.placed(net) for net in self.controls]
        return self

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        shown = {f"shown{i}": resized(picture(kind, frames, cameras), self.side)
                 for i, kind in enumerate(self.settings.maps)}  # fmt: skip
        return {"": {**super().told(prompt, cameras, frames).get("", {}), **shown}}

    def beside(self, z: Tensor, time: Tensor, condition: Condition, told: Mapping[str, Any]) -> dict[str, Any]:
        shown = [condition.rows[f"shown{i}"].to(z.dtype) for i in range(len(self.controls))]
        told = super().beside(z, time, condition, told)
        return {**told, **residuals(self.controls, shown, self.settings.scales, z, time, **told)}


class ControlNetXL(ControlNet, StableDiffusionXL):
    """Stable Diffusion XL that is shown depth or normals of the frames' surface."""

    paper: ClassVar[str] = "Zhang et al. 2023, arXiv:2302.05543"

    @dataclass(frozen=True)
    class Settings(ControlNet.Settings, StableDiffusionXL.Settings):
        model: str = setting("sdxl", help="a name of `dreamlab models ls`, or the path of a folder or file")
        tiny: str = setting("taesdxl", help="the tiny autoencoder, as `model`; for hybrid and tiny")
        controls: tuple[str, ...] = setting(("controlnet-depth-sdxl",), help="control networks, each as `model`")

    settings: Settings
