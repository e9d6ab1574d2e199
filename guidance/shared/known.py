# SPDX-License-Identifier: Apache-2.0
"""What guidances share that know their pictures instead of having learnt them: pixel space, and a certain answer."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from dreamlab.core import pixels
from dreamlab.core.noise import NoiseTable, make_table
from dreamlab.core.types import Condition

CERTAIN = frozenset({"truth"})  # the one condition of a model that knows the answer


class InPixels:
    """Latents are the pictures themselves; the noise table follows the device."""

    def __init__(self, table: str) -> None:
        self.table: NoiseTable = make_table(table)

    def to(self, device: torch.device | str) -> Self:
        self.table = self.table.to(device)
        return self

    def encode(self, rgb: Tensor) -> Tensor:
        return pixels.encode(rgb)

    def decode(self, z: Tensor) -> Tensor:
        return pixels.decode(z)


class Certain(InPixels):
    """A model that has seen one picture of each view (rows `rgb` of its condition): eps = (z_t - a x0) / s."""

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        a, s = self.table.signal_noise(t_index, z_t)
        return (z_t - a * self.encode(condition.rows["rgb"])) / s
