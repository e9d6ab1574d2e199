# SPDX-License-Identifier: Apache-2.0
"""What a surface is made of: channels in [0, 1] read at points of it, from a hash grid or from textures.

Channels are glTF's metallic-roughness: base colour (sRGB, 3), roughness, metallic, tangent-space normal (2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext.hashgrid import HashGrid, encode
from cuda_ext.packages import for_op
from dreamlab.core.safemath import inverse_sigmoid
from dreamlab.core.schedules import Schedule
from dreamlab.core.types import ParamGroup


@dataclass(frozen=True)
class SurfaceField:
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
    layout: str = "own"
    growth: float | None = None

    @cached_property
    def grid(self) -> HashGrid:
        shape = (self.levels, self.features, self.log2_entries, self.base_resolution, self.finest_resolution)
        return HashGrid(*shape, layout=self.layout, growth=self.growth)

    def start(self, generator: torch.Generator, table_scale: float = 1e-4) -> dict[str, Tensor]:
        """The output layer begins small: all channels near zero."""
        width = self.levels * self.features
        return {
            "table": self.grid.init_table(generator, table_scale),
            "layer1": torch.randn(width, self.hidden, generator=generator) * (2 / width) ** 0.5,
            "layer2": torch.randn(self.hidden, self.channels, generator=generator) * 0.1 / self.hidden**0.5,
            "bias": torch.zeros(self.channels),
        }

    def __call__(self, params: Mapping[str, Tensor], points: Tensor, backend: str = "auto") -> Tensor:
        """[N, channels] at points [N, 3]."""
        unit = (points / self.extent + 1) / 2
        features = encode(unit, params["table"], self.grid, backend=for_op(backend, "hashgrid"))
        return (features @ params["layer1"]).relu() @ params["layer2"] + params["bias"]

    def learn(
        self,
        params: dict[str, Tensor],
        points: Tensor,
        values: Tensor,
        steps: int,
        stream: torch.Generator,
        jitter: float = 0.0,
    ) -> None:
        """Fit `params` in place to known raw values [N, channels] at points [N, 3] (when a scene becomes another).

        `jitter` (standard deviation in metres, about the points' spacing) keeps fine levels from learning nothing but
        the points themselves.
        """
        leaves = [value.requires_grad_() for value in params.values()]
        optimiser = torch.optim.Adam(leaves, lr=0.02, betas=(0.9, 0.99), eps=1e-15)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = 0.02 * 0.05 ** (step / steps)
            rows = torch.randint(len(points), (min(len(points), 8192),), generator=stream).to(points.device)
            optimiser.zero_grad()
            near = points[rows] + jitter * torch.randn(len(rows), 3, generator=stream).to(points)
            (self(params, near) - values[rows]).square().mean().backward()
            optimiser.step()
        for value in leaves:
            value.grad = None


def groups_of(params: Mapping[str, Tensor], table: Schedule, network: Schedule, prefix: str) -> dict[str, ParamGroup]:
    """Parameter groups of a `SurfaceField`: the table learns faster than the network."""
    return {
        f"{prefix}{name}": ParamGroup(tensor, table if name == "table" else network) for name, tensor in params.items()
    }


class Coat(NamedTuple):
    """A material at M points of a surface."""

    base: Tensor  # [M, 3] sRGB
    roughness: Tensor  # [M, 1]
    metallic: Tensor  # [M, 1]
    bump: Tensor | None  # [M, 3] how the normal is bent: in the world, or in tangent space


@dataclass(frozen=True)
class Ranges:
    """Where raw numbers may go: sigmoids between these ends (Fantasia3D keeps metals and mirrors out of reach)."""

    roughness: tuple[float, float] = (0.08, 0.95)
    metallic: tuple[float, float] = (0.0, 0.95)

    def coat(self, raw: Tensor, bump: float) -> Coat:
        """Of raw numbers [M, 5 or 8]: base, roughness, metallic, bump."""

        def between(ends: tuple[float, float], x: Tensor) -> Tensor:
            return ends[0] + (ends[1] - ends[0]) * x.sigmoid()

        bent = bump * raw[:, 5:8].tanh() if raw.shape[1] > 5 else None
        return Coat(
            raw[:, :3].sigmoid(), between(self.roughness, raw[:, 3:4]), between(self.metallic, raw[:, 4:5]), bent
        )

    def raw(
        self, base: Tensor, roughness: Tensor | float, metallic: Tensor | float, channels: int, margin: float = 0.02
    ) -> Tensor:
        """[M, channels]: what `coat` turns into these values, without bump; `margin`: how near to the ends of the
        ranges they may come, for farther out a sigmoid no longer learns."""

        def back(ends: tuple[float, float], value: Tensor | float) -> Tensor:
            share = torch.as_tensor((value - ends[0]) / (ends[1] - ends[0]), device=base.device)
            return inverse_sigmoid(share.clamp(margin, 1 - margin))

        out = base.new_zeros(len(base), channels)
        out[:, :3] = inverse_sigmoid(base.clamp(0.004, 0.996))
        out[:, 3:4], out[:, 4:5] = back(self.roughness, roughness), back(self.metallic, metallic)
        return out
