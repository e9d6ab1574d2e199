# SPDX-License-Identifier: Apache-2.0
"""Depths that agree up to scale and shift, or only in order: for references whose depth an estimator has guessed."""

from __future__ import annotations

import torch
from torch import Tensor


def unlike(depth: Tensor, reference: Tensor, there: Tensor) -> Tensor:
    """1 - Pearson's correlation over the pixels `there` [B, H, W, 1], mean over pictures (DreamCraft3D's depth_rel).

    0 for any a reference + b with a > 0, 2 for a < 0; a flat picture counts 1.
    """
    weight = there.to(depth)
    count = weight.sum((1, 2, 3), keepdim=True).clamp(min=1)
    a, b = (weight * (x - (weight * x).sum((1, 2, 3), keepdim=True) / count) for x in (depth, reference))
    norms = a.square().sum((1, 2, 3)) * b.square().sum((1, 2, 3))
    return (1 - (a * b).sum((1, 2, 3)) / norms.clamp(min=1e-12).sqrt()).mean()


def out_of_order(
    depth: Tensor, reference: Tensor, there: Tensor, stream: torch.Generator, pairs: int = 4096, margin: float = 1e-4
) -> Tensor:
    """Mean hinge over random pairs of pixels of a picture: the one farther in the reference must be farther here."""
    count, size = len(depth), depth[0].numel()
    i, j = torch.randint(size, (2, count, pairs), generator=stream, device=stream.device).to(depth.device)
    flat, known, seen = depth.flatten(1), reference.flatten(1), there.flatten(1)
    order = torch.sign(known.gather(1, i) - known.gather(1, j))
    wrong = (margin - order * (flat.gather(1, i) - flat.gather(1, j))).relu()
    used = (seen.gather(1, i) & seen.gather(1, j) & (order != 0)).to(depth)
    return (used * wrong).sum() / used.sum().clamp(min=1)
