# SPDX-License-Identifier: Apache-2.0
"""Pictures of an object's views that a model of fixed views has drawn once from the prompt's picture, as the truth of
their cameras: what reconstruction (`photometric`) compares the frames with.

The model is in memory for that alone: it draws before the first step and is gone. A picture holds for its camera as the
stage draws it, so distance and lens should not vary; and it is painted before the model's own background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import InputError
from dreamlab.core.noise import TABLES
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from guidance.latent.drawing import drawn_views
from guidance.latent.memory import empty_cache
from guidance.latent.pictured import FixedViews
from guidance.latent.sampling import Sampling
from guidance.shared.dtypes import DTYPES
from guidance.shared.known import CERTAIN, Certain
from guidance.shared.worlds import Worlds
from guidance.sv3d import StableOrbit
from guidance.zero123plus import Zero123Plus

DRAWERS: Mapping[str, type[FixedViews]] = {"zero123plus": Zero123Plus, "sv3d": StableOrbit}


class Dreamt(Certain):
    """Views that a pretrained model drew once."""

    paper: ClassVar[str] = "pictures sampled first, reconstructed then: Voleti et al. 2024, arXiv:2403.12008"

    @dataclass(frozen=True)
    class Settings:
        by: str = setting("zero123plus", choices=tuple(DRAWERS), help="whose views")
        model: str = setting("", help="a name of `dreamlab models ls`, or a path; missing: its own")
        steps: int = setting(50, low=1, high=1000, help="of its sampler")
        cfg: float = setting(4.0, low=0, help="of its guidance; of sv3d where it is strongest, 2.5 there")
        seed: int = setting(0, low=0, help="of what it draws")
        size: int = setting(0, low=0, high=2048, help="pixels of a view; 0: what it was trained at")
        frames: int = setting(21, low=2, high=64, help="of sv3d's orbit")
        legacy: str = setting("", help="names of pickled files in its folder that may be read, with commas")
        dtype: str = setting("auto", choices=DTYPES, help="of its network; auto: bfloat16 where that is fast")
        table: str = setting("cosine", choices=TABLES, help="noise table, for rules that noise")

    @classmethod
    def card(cls, settings: Settings) -> GuidanceCard:
        """Its cameras' heights are those of its pictures, which are drawn once."""
        inner = DRAWERS[settings.by].card(asked_of(settings))
        level = all(stand.elevation_deg is None for stand in inner.stands)
        known = GuidanceCard(CERTAIN, inner.together, whole=True, picture=True, stands=inner.stands, level=level)
        return replace(known, models=inner.models, backdrop=inner.backdrop)

    @classmethod
    def build(cls, settings: Settings, worlds: Worlds | None) -> Self:
        return cls(settings)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.table)
        self.settings, self.device = settings, torch.device("cpu")
        self._drawn: tuple[Reference, Tensor] | None = None

    def to(self, device: torch.device | str) -> Self:
        self.device = torch.device(device)
        return super().to(device)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        """What it drew, at the frames' size."""
        views = self.views(prompt, cameras)
        if len(cameras) % len(views):
            raise InputError(f"dreamt: looks at {len(views)} views together, and {len(cameras)} came")
        size = frames.rgb.shape[1]
        small = F.interpolate(views.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True)
        return {"truth": Condition({"rgb": small.permute(0, 2, 3, 1).repeat(len(cameras) // len(views), 1, 1, 1)})}

    def views(self, prompt: Prompt, cameras: Cameras) -> Tensor:
        """[N, S, S, 3], drawn when first asked for."""
        if prompt.image is None:
            raise InputError("dreamt: follows a picture and the prompt has none; give one with --image")
        if self._drawn is None or self._drawn[0] is not prompt.image:
            s = self.settings
            model = DRAWERS[s.by].build(asked_of(s), None).to(self.device)
            how = Sampling(s.steps, s.cfg, scales=model.guided_by(s.cfg))
            made = drawn_views(model, prompt, cameras[torch.arange(model.together_now)], how, s.seed)
            del model
            empty_cache()
            self._drawn = prompt.image, made
        return self._drawn[1]


def asked_of(settings: Dreamt.Settings) -> Any:
    """The settings of the model that draws."""
    s, default = settings, DRAWERS[settings.by].default
    told: dict[str, Any] = {"model": s.model or default, "size": s.size, "dtype": s.dtype, "legacy": s.legacy}
    return Zero123Plus.Settings(**told) if s.by == "zero123plus" else StableOrbit.Settings(**told, frames=s.frames)
