# SPDX-License-Identifier: Apache-2.0
"""Layers of the embedded prior's network. Maps are [B, H, W, C] throughout, so that norms and matrix products see them
flat. Attention is written as plain matrix products: on a CPU their backward pass is three times as fast as the fused
one.

`through` is one layer with all that stands around it. Where nothing learns and the machine multiplies bfloat16, it is
one pass over memory (`cuda_ext.project`); else torch's own product with what comes before and after it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext.attend import attend
from cuda_ext.modulate import modulate
from cuda_ext.project import Packed, pack, project, swift


class Readied:
    """The weights of a layer packed for answers; made anew when they change or others stand in their place."""

    def __init__(self) -> None:
        self._given: tuple[Tensor, ...] = ()  # kept alive: another tensor at the same address is another
        self._states: list[tuple[int, int]] = []

    def of(self, weight: Tensor, bias: Tensor | None) -> Packed:
        given = (weight,) if bias is None else (weight, bias)
        states = [(x.data_ptr(), x._version) for x in given]
        if states != self._states or any(x is not y for x, y in zip(given, self._given, strict=True)):
            self._given, self._states, self._packed = given, states, pack(weight, bias)
        return self._packed


class Linear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.readied = Readied()


class Conv(nn.Conv2d):
    """3 x 3 over [B, H, W, C]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, stride, 1, bias=bias)
        self.readied = Readied()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def norm(x: Tensor, groups: int = 1) -> Tensor:
    """Over the last axis, or over each of so many parts of it."""
    return modulate(x, groups=groups)


def silu(x: Tensor) -> Tensor:
    return modulate(x, normed=False, silu=True)


def pooled(x: Tensor) -> Tensor:  # [B, H, W, C] -> [B, H/2, W/2, C]
    rows = (x[:, ::2] + x[:, 1::2]) / 4  # ten times as fast as a mean over two short axes
    return rows[:, :, ::2] + rows[:, :, 1::2]


def doubled(x: Tensor) -> Tensor:  # [B, H, W, C] -> [B, 2H, 2W, C]
    b, h, w, c = x.shape
    rows = torch.cat([x, x], -1).reshape(b, h, 1, 2 * w * c)
    return rows.expand(b, h, 2, 2 * w * c).reshape(b, 2 * h, 2 * w, c)


class Up(Linear):
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


def through(
    layer: Linear | Conv,
    x: Tensor,
    told: Tensor | None = None,
    *,
    normed: bool = False,
    silu: bool = False,
    act: str = "none",
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    wide: bool = False,
) -> Tensor:
    """residual + gate act(layer(m(x))), m as of `modulate` (told, normed, silu); `wide` answers in float32."""
    if answers(layer, x):
        return project(
            x,
            layer.readied.of(layer.weight, layer.bias),
            told=told,
            normed=normed,
            silu=silu,
            act=act,
            gate=gate,
            residual=residual,
            step=layer.stride[0] if isinstance(layer, Conv) else 1,
            children=isinstance(layer, Up),
            wide=wide,
        )
    if told is not None or normed or silu:
        x = modulate(x, told, normed=normed, silu=silu)
    y = layer(x)
    if act != "none":
        y = F.relu(y).square() if act == "relu2" else modulate(y, normed=False, silu=True)
    if gate is not None:
        y = y * gate.reshape(len(y), *(y.dim() - 2) * [1], -1)
    y = y if residual is None else residual + y
    return y.float() if wide else y


def answers(layer: Linear | Conv, x: Tensor) -> bool:
    """Whether nothing learns, nothing is added to the layer (LoRA), and the machine is quick at it."""
    quick = x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled() and swift()
    plain = layer.weight.dtype == x.dtype and not layer._forward_hooks
    return quick and plain and not (isinstance(layer, Up) and layer.out_features % 64)


class Attention(nn.Module):
    """From maps of `width` channels to themselves, or to a sequence of `source` channels; heads of 56 or so."""

    def __init__(self, width: int, source: int | None = None) -> None:
        super().__init__()
        self.heads = max(1, width // 56)
        self.q = Linear(width, width, bias=False)
        self.kv = Linear(source or width, 2 * width, bias=False)
        self.out = Linear(width, width)

    def forward(
        self,
        x: Tensor,  # [B, N, C]
        source: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        told: Tensor | None = None,
        gate: Tensor | None = None,
        joint: int = 1,
    ) -> Tensor:
        """x + gate attention(norm(x)), the norm shifted and scaled by what is `told`; `joint` rows that follow one
        another see each other."""

        def split(y: Tensor) -> Tensor:
            return y.reshape(-1, joint * y.shape[1], y.shape[2]).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q = through(self.q, x, told, normed=True)
        kv = through(self.kv, x, told, normed=True) if source is None else through(self.kv, source)
        if answers(self.q, x):
            queries, told_keys = (y.reshape(-1, joint * y.shape[1], y.shape[2]) for y in (q, kv))
            seen = attend(queries, told_keys, mask, heads=self.heads).reshape(x.shape)
            return through(self.out, seen, gate=gate, residual=x)
        key, value = kv.chunk(2, -1)
        q, k = (split(norm(y, self.heads)) for y in (q, key))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask[:, None, None, :].to(scores.dtype)
        seen = scores.softmax(-1).to(value.dtype) @ split(value)
        return through(self.out, seen.transpose(1, 2).flatten(2).reshape(x.shape), gate=gate, residual=x)


class WordBlock(nn.Module):
    """Pre-norm transformer block over the words of a caption."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.up, self.down = Linear(width, 2 * width), Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask=mask)
        return through(self.down, through(self.up, x, normed=True, act="relu2"), residual=x)
