# SPDX-License-Identifier: Apache-2.0
"""Torch twin of attention with normed queries and keys: the specification of `cuda_ext.attend`."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.reference.modulate import modulate


def attend(query: Tensor, told: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """[B, N, heads W], [B, M, 2 heads W] (keys, then values), [B, M] -> like query.

    q, k   queries and keys of a head, each less its mean and over its deviation
    share  softmax over the keys of q k / sqrt(W) + mask
    out    sum of share x value
    """
    inside = torch.promote_types(query.dtype, torch.float32)

    def split(x: Tensor) -> Tensor:
        return x.to(inside).unflatten(-1, (heads, -1)).transpose(1, 2)

    key, value = told.chunk(2, -1)
    q, k = (split(modulate(x, None, True, False, heads)) for x in (query, key))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask[:, None, None].to(inside)
    return (scores.softmax(-1) @ split(value)).transpose(1, 2).flatten(2).to(query.dtype)
