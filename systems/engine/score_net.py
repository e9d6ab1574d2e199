# SPDX-License-Identifier: Apache-2.0
"""A small network that learns the score of what a scene's renders look like: VSD's variational network, CPU-sized.

Two levels of convolutions, scaled and shifted by time and camera, with a learned map that tells where in the picture a
pixel is. It predicts v or eps; its last layer and its gain on z_t start at zero, so that in v it begins as the exact
answer for pictures of pure unit-variance noise, eps = s z_t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core.noise import NoiseTable, eps_from_v

CAMERA = 16
WAVES = 8


def misfit(width: int) -> str:
    """What is wrong with a width, which is normalised in four groups."""
    return f"width {width} is not a multiple of 4" if width % 4 else ""


class Block(nn.Module):
    """A residual convolution whose input is scaled and shifted by the condition."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.film = nn.Linear(told, 2 * width)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.film(told)[..., None, None].chunk(2, 1)
        return x + self.second(F.silu(self.first(F.silu(F.group_norm(x, 4) * (1 + scale) + shift))))


class _Net(nn.Module):
    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, span = shape
        told = 2 * width
        self.told = nn.Sequential(nn.Linear(2 * WAVES + CAMERA, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.place = nn.Parameter(torch.zeros(width, height, span))
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.ModuleList(Block(2 * width, told) for _ in range(2))
        self.up = nn.Conv2d(2 * width, width, 1)
        self.fine = Block(width, told)
        self.out = nn.Conv2d(width, channels, 3, padding=1)
        self.gain = nn.Linear(told, channels)

    def forward(self, z: Tensor, told: Tensor) -> Tensor:
        told = self.told(told)
        x = self.stem(z) + self.place
        deep = self.down(F.silu(x))
        for block in self.deep:
            deep = block(deep, told)
        x = self.fine(x + F.interpolate(self.up(deep), x.shape[-2:], mode="nearest"), told)
        return self.out(F.silu(x)) + self.gain(told)[..., None, None] * z


class ScoreNet:
    """eps of noisy renders given the camera, or what to add to another eps (`adds`); a function of its parameters."""

    def __init__(self, shape: tuple[int, int, int], table: NoiseTable, width: int, predicts: str, adds: bool) -> None:
        self.shape, self.predicts, self.adds, self.table = shape, predicts, adds, table
        with torch.device("meta"):
            self.net = _Net(shape, width)

    def start(self, like: Tensor) -> dict[str, Tensor]:
        """The same start every time: drawn from a generator of its own, in the manner of Kaiming."""
        generator = torch.Generator().manual_seed(0)
        found = {}
        for name, param in self.net.named_parameters():
            value = torch.zeros(param.shape)
            if name.endswith("weight") and not name.startswith(("out", "gain")):
                fan_in = param[0].numel()
                value = torch.randn(param.shape, generator=generator) / math.sqrt(fan_in)
            if name == "place":
                value = 0.5 * torch.randn(param.shape, generator=generator)
            found[name] = value.to(like)
        return found

    def apply(self, params: Mapping[str, Tensor], z_t: Tensor, t_index: Tensor, camera: Tensor) -> Tensor:
        """eps [M, C, h, w] at `t_index` [M] for `camera` [M, 16]."""
        a, s = self.table.signal_noise(t_index, z_t)
        phase = torch.atan2(s, a).reshape(-1, 1)  # in [0, pi/2]: even steps of it are even steps of difficulty
        waves = phase * torch.arange(1, WAVES + 1, device=z_t.device, dtype=z_t.dtype) * 2
        told = torch.cat([waves.sin(), waves.cos(), camera.to(z_t)], 1)
        said = torch.func.functional_call(self.net, dict(params), (z_t, told))
        if self.predicts == "eps":
            return said
        return a * said if self.adds else eps_from_v(z_t, said, a, s)
