# SPDX-License-Identifier: Apache-2.0
"""Layers of the embedded prior's network. Maps are [B, H, W, C] throughout, so that norms and matrix products see them
flat. Attention is written as plain matrix products: on a CPU their backward pass is three times as fast as the fused
one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext.modulate import modulate


class Conv(nn.Conv2d):
    """3 x 3 over [B, H, W, C]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, stride, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def norm(x: Tensor, groups: int = 1) -> Tensor:
    """Over the last axis, or over each of so many parts of it."""
    return modulate(x, groups=groups)


def silu(x: Tensor) -> Tensor:
    return modulate(x, normed=False, silu=True)


def pooled(x: Tensor) -> Tensor:  # [B, H, W, C] -> [B, H/2, W/2, C]
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def doubled(x: Tensor) -> Tensor:  # [B, H, W, C] -> [B, 2H, 2W, C]
    b, h, w, c = x.shape
    return x[:, :, None, :, None].expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c)


class Up(nn.Linear):
    """Each cell of [B, H, W, inputs] tells each of its four children [B, 2H, 2W, outputs] something of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, 4 * outputs)
        with torch.no_grad():  # the four begin alike
            self.weight.copy_(self.weight[:outputs].repeat(4, 1))
            self.bias.copy_(self.bias[:outputs].repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        children = super().forward(x).reshape(b, h, w, 2, 2, -1)
        return children.permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Attention(nn.Module):
    """From maps of `width` channels to themselves, or to a sequence of `source` channels; heads of 56 or so."""

    def __init__(self, width: int, source: int | None = None) -> None:
        super().__init__()
        self.heads = max(1, width // 56)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(source or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1))

        key, value = self.kv(x if source is None else source).chunk(2, -1)
        q, k = (split(norm(y, self.heads)).transpose(1, 2) for y in (self.q(x), key))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask[:, None, None, :].to(scores.dtype)
        seen = scores.softmax(-1).to(value.dtype) @ split(value).transpose(1, 2)
        return self.out(seen.transpose(1, 2).flatten(2))


class WordBlock(nn.Module):
    """Pre-norm transformer block over the words of a caption."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(norm(x), mask=mask)
        return x + self.down(F.relu(self.up(norm(x))).square())
