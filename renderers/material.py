# SPDX-License-Identifier: Apache-2.0
"""What a surface is made of: channels in [0, 1] read at points of it, from a hash grid or from textures.

Channels are glTF's metallic-roughness: base colour (sRGB, 3), roughness, metallic, tangent-space normal (2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext.hashgrid import HashGrid, encode
from dreamlab.core.schedules import Schedule
from dreamlab.core.types import ParamGroup


@dataclass(frozen=True)
class HashField:
    """A hash grid over [-extent, extent]^3 and a network of one hidden layer, without biases: raw numbers at points.

    The shape is here, the numbers are the caller's: `start` makes them, `__call__` takes them.
    """

    channels: int
    levels: int = 8
    features: int = 2
    log2_entries: int = 16
    base_resolution: int = 8
    finest_resolution: int = 256
    hidden: int = 32
    extent: float = 1.0

    @property
    def grid(self) -> HashGrid:
        return HashGrid(self.levels, self.features, self.log2_entries, self.base_resolution, self.finest_resolution)

    def start(self, generator: torch.Generator, table_scale: float = 1e-2) -> dict[str, Tensor]:
        """The output layer begins small: all channels near zero."""
        width = self.levels * self.features
        return {
            "table": self.grid.init_table(generator, table_scale),
            "layer1": torch.randn(width, self.hidden, generator=generator) * (2 / width) ** 0.5,
            "layer2": torch.randn(self.hidden, self.channels, generator=generator) * 0.1 / self.hidden**0.5,
            "bias": torch.zeros(self.channels),
        }

    def __call__(self, params: Mapping[str, Tensor], points: Tensor) -> Tensor:
        """[N, channels] at points [N, 3]."""
        unit = (points / self.extent + 1) / 2
        features = encode(unit, params["table"], self.grid)
        return (features @ params["layer1"]).relu() @ params["layer2"] + params["bias"]


def groups_of(params: Mapping[str, Tensor], table: Schedule, network: Schedule, prefix: str) -> dict[str, ParamGroup]:
    """Parameter groups of a `HashField`: the table learns faster than the network."""
    return {
        f"{prefix}{name}": ParamGroup(tensor, table if name == "table" else network) for name, tensor in params.items()
    }


