# SPDX-License-Identifier: Apache-2.0
"""The judge's network: a small residual convnet from one 64 px picture to a category (or none) and a side of it.

The side is there to be learnt from: it keeps views apart. The net sees sRGB over any solid background and, as a fourth
channel, how far each pixel is from the colour of the border: the silhouette, for pictures that come without alpha. It
is told neither prompt nor camera.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core import tensors

SIZE = 64
SIDES = 8  # sectors of azimuth, the first one centred on the front
WIDTHS = (32, 64, 112, 160)
FORMAT = 1


class Strided(nn.Module):
    """Two convolutions and a way around them; the first may halve the picture."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.around = nn.Conv2d(before, after, 1, bias=False) if before != after else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        near = F.avg_pool2d(x, 2) if self.stride == 2 else x
        return F.relu(y + self.around(near))


class JudgeNet(nn.Module):
    """[B, 64, 64, 3] -> logits [B, C + 1] (the last one is none of these) and of the side [B, SIDES]."""

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, WIDTHS[0], 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(WIDTHS[0])
        self.trunk = nn.Sequential(*(Strided(a, b, 2) for a, b in itertools.pairwise(WIDTHS)))
        self.category = nn.Linear(WIDTHS[-1], categories + 1)
        self.side = nn.Linear(WIDTHS[-1], SIDES)

    def features(self, rgb: Tensor) -> Tensor:  # [B, WIDTHS[-1]]
        x = with_silhouette(rgb).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return self.trunk(F.relu(self.stem_norm(self.stem(x)))).mean((2, 3))

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        found = self.features(rgb)
        return self.category(found), self.side(found)


def with_silhouette(rgb: Tensor) -> Tensor:
    """[B, H, W, 3] -> [B, H, W, 4], centred: the fourth channel is 1 where the colour is far from the border's."""
    border = torch.cat([rgb[:, 0], rgb[:, -1], rgb[:, 1:-1, 0], rgb[:, 1:-1, -1]], 1)  # [B, 4 (S - 1), 3]
    far = (rgb - border.median(1).values[:, None, None]).abs().sum(-1, keepdim=True)
    return torch.cat([2 * rgb - 1, 2 * (far / 0.3).clamp(max=1) - 1], -1)


@dataclass(frozen=True)
class StoredJudge:
    """A judge as read from a file: the network, the names of its classes, the thresholds and how it was made."""

    net: JudgeNet
    categories: tuple[str, ...]
    facts: Mapping[str, Any]
    digest: str = ""  # of the file: results of different judges must not be mixed


def save(path: Path, net: JudgeNet, categories: tuple[str, ...], facts: Mapping[str, Any]) -> None:
    """One safetensors file in fp16; names and facts are in its header."""
    from dreamlab.core.files import disk_errors, write_atomic

    state = {name: value.detach().half() for name, value in net.state_dict().items() if "num_" not in name}
    header = {tensors.FORMAT: FORMAT, "categories": list(categories), "facts": dict(facts)}
    with disk_errors("saving the judge", path):
        write_atomic(path, tensors.packed(state, "judge", header))


def load(path: Path) -> StoredJudge:
    """Read and check a judge; ModelError says in one line what is missing or damaged."""
    from dreamlab.core.files import sha256

    def build(header: tensors.Header, state: dict[str, Tensor]) -> StoredJudge:
        categories = tuple(header["categories"])
        net = JudgeNet(len(categories))
        counters = {name: value for name, value in net.state_dict().items() if "num_" in name}
        net.load_state_dict(state | counters)
        return StoredJudge(net.requires_grad_(False).eval(), categories, header["facts"], sha256(path)[:16])

    again = "reinstall dreamlab, or train it again with python -m dreamlab.metrics train"
    return tensors.network(path, "judge", FORMAT, again, build)
