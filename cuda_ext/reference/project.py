# SPDX-License-Identifier: Apache-2.0
"""Torch twin of a layer over maps: the specification of `cuda_ext.project`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext.reference.modulate import modulate


def project(
    x: Tensor, weight: Tensor, bias: Tensor | None, told: Tensor | None, gate: Tensor | None, residual: Tensor | None,
    outputs: int, step: int, normed: bool, silu: bool, act: str, children: bool, wide: bool,
) -> Tensor:  # fmt: skip
    """residual + gate act(W m(x) + bias), m as of `modulate` and rounded to x's dtype, the rest of it at the end.

    weight [vectors, taps, steps, 16, numbers] holds W [outputs, C] or [outputs, C, 3, 3] (see `cuda_ext.project.pack`):
    over 3 x 3 neighbours, zeros around the map, with a result at every `step`-th place.
    children: [B, H, W, 4 O] is given as [B, 2 H, 2 W, O], the four in reading order.
    """
    inside = torch.promote_types(x.dtype, torch.float32)
    taps, width = weight.shape[1], x.shape[-1]
    rows = weight.permute(1, 0, 3, 2, 4).reshape(taps, 16 * len(weight), -1)[:, :outputs, :width].to(inside)
    y = modulate(x, told, normed, silu, 1).to(inside)
    if taps == 1:
        y = y @ rows[0].T
    else:
        kernel = rows.permute(1, 2, 0).reshape(outputs, width, 3, 3)
        y = F.conv2d(y.permute(0, 3, 1, 2), kernel, None, step, 1).permute(0, 2, 3, 1)
    y = y if bias is None else y + bias.to(inside)
    y = {"none": lambda y: y, "relu2": lambda y: F.relu(y).square(), "silu": F.silu}[act](y)
    if gate is not None:
        y = y * gate.to(inside).reshape(len(y), *(y.dim() - 2) * [1], -1)
    if children:
        b, h, w, _ = y.shape
        y = y.reshape(b, h, w, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)
    return (y if residual is None else y + residual.to(inside)).to(torch.float32 if wide else x.dtype)
