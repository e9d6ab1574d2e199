# SPDX-License-Identifier: Apache-2.0
"""Rectified-flow transformers as guidance: what their families share beside guidance/latent/model.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.settings import setting
from guidance.latent.loading import ModelFolder
from guidance.latent.model import LatentModel, ModelSettings
from guidance.latent.tables import Clock, clock_of

PATCH = 16  # pixels of a token's side: latents of eight, two by two


@dataclass(frozen=True)
class FlowSettings(ModelSettings):
    """What every transformer can be told besides."""

    shift: float = setting(0.0, low=0, high=20, help="of its times towards noise; 0: as its folder says for this size")


class FlowModel(LatentModel):
    """A transformer that predicts the velocity n - x0 of z_s = (1 - s) x0 + s n."""

    net_part: ClassVar[str] = "transformer"
    time_part: ClassVar[str] = "time_text_embed"
    conv: ClassVar[bool] = False
    settings: FlowSettings

    def __init__(self, settings: FlowSettings, source: ModelFolder) -> None:
        self.trained_at: int = self.size_of(source)  # type: ignore[misc]  # the clock asks for it
        super().__init__(settings, source)

    def size_of(self, source: ModelFolder) -> int:
        return 1024

    def clock_of(self, source: ModelFolder) -> Clock:
        config = source.config("scheduler")
        shift = self.settings.shift or dynamic_shift(config, self.settings.size or self.trained_at)
        return clock_of(config, str(source.path / "scheduler"), shift=shift)

    def to(self, device: torch.device | str) -> Self:
        super().to(device)
        if self.side % PATCH:
            raise InputError(f"size: {self.side} is no multiple of {PATCH}, a token's side in pixels")
        return self


def dynamic_shift(config: Mapping[str, Json], side: int) -> float:
    """FLUX: exp(mu), mu linear in the number of tokens; 0 where the scheduler has one shift for all sizes."""
    if not config.get("use_dynamic_shifting"):
        return 0.0
    low, high, fewest, most = (
        float(str(config[name])) for name in ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
    )
    return math.exp(low + (high - low) / (most - fewest) * ((side // PATCH) ** 2 - fewest))


def places(height: int, width: int, device: Any) -> Tensor:
    """[height width, 2]: row and column of each token."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.cartesian_prod(rows, columns).float().reshape(-1, 2)
