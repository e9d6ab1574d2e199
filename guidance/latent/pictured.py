# SPDX-License-Identifier: Apache-2.0
"""What models of a given picture have in common, whatever family they are of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from dreamlab.core.cards import GuidanceCard
from dreamlab.core.types import Reference
from guidance.latent.loading import ModelFolder
from guidance.latent.model import LatentModel, ModelSettings
from guidance.latent.pictures import SeenPictures


class Pictured(LatentModel):
    """Follows the prompt's picture, which it looks at once a device; named before the family that it is a kind of."""

    def __init__(self, settings: ModelSettings, source: ModelFolder) -> None:
        super().__init__(settings, source)
        self.seen_pictures = SeenPictures(self.look_at)

    @classmethod
    def card(cls, settings: ModelSettings) -> GuidanceCard:
        return replace(super().card(settings), picture=True)

    def to(self, device: torch.device | str) -> Self:
        self.seen_pictures.forget()
        return super().to(device)

    @abstractmethod
    def look_at(self, given: Reference) -> Mapping[str, Tensor]:
        """What is kept of a picture: tables on the model's device."""


class FixedViews(Pictured):
    """Knows the object of the picture from fixed cameras alone, all of which it sees together."""

    @property
    def together_now(self) -> int:
        """How many views it draws at once."""
        return self.together

    def guided_by(self, most: float) -> tuple[float, ...]:
        """How much its own sampler guides each row of latents, where it does not guide all alike."""
        return ()
