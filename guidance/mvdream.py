# SPDX-License-Identifier: Apache-2.0
"""MVDream: four views of one object seen together, each told its camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.latent.joint import ViewCount, joined, told
from guidance.latent.loading import ModelFolder
from guidance.latent.model import SPOKEN, LatentModel, ModelSettings, trained_side
from guidance.latent.text import ClipText, TextEncoder
from guidance.shared.groups import share


class MultiViewDream(LatentModel):
    """Four views of one object seen together, each told its camera, and a text."""

    paper: ClassVar[str] = "Shi et al. 2023, arXiv:2308.16512"
    takes: ClassVar[str] = "mvdream"
    clip_words: ClassVar[bool] = True
    default: ClassVar[str] = "mvdream"
    embedded: ClassVar[str] = "toybox-views"
    single_kinds: ClassVar[tuple[str, ...]] = ("mvdream",)
    conditions: ClassVar[frozenset[str]] = SPOKEN - {"blind", "blind_null"}  # no camera is none that it knows
    together: ClassVar[int] = 4
    time_part: ClassVar[str] = ""  # a trained copy is told the camera as the network itself is

    @dataclass(frozen=True)
    class Settings(ModelSettings):
        model: str = setting("mvdream", help="a name of `dreamlab models ls`, or the path of a folder or file")

    def __init__(self, settings: ModelSettings, source: ModelFolder) -> None:
        self.views = ViewCount()
        super().__init__(settings, source)
        self.trained_at: int = trained_side(source)  # type: ignore[misc]

    def load(self) -> None:
        super().load()
        self.module = joined(self.module, self.views, str(self.source.path))

    def text_encoder(self, device: torch.device) -> TextEncoder:
        return ClipText(self.source, self.dtype, device, self.settings.clip_skip)

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        return {"": {"camera": told(cameras).to(self.device)}}

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        """The number of a group's views travels as the length of a shared tensor, so that nobody waits for it."""
        group = torch.empty(share(len(cameras), self.together, "views"), device=self.device)
        made = super().condition(prompt, cameras, frames)
        return {name: replace(one, shared={**one.shared, "group": group}) for name, one in made.items()}

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.views.count = len(condition.shared["group"])
        rows = {name: row.to(z.dtype) for name, row in condition.rows.items()}
        said: Tensor = self.net(z, time, rows["text"], class_labels=rows["camera"], return_dict=False)[0]
        return said
