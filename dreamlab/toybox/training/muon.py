# SPDX-License-Identifier: Apache-2.0
"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal before the step; AdamW for the rest.

A hidden matrix G of momentum is replaced by the nearest (semi-)orthogonal one, found by five Newton-Schulz steps
X <- a X + (b A + c A^2) X with A = X X^T, which drive every singular value near 1. Scaled by
0.2 sqrt(max(rows, columns)) (Liu et al. 2025, section 2.2) its elements are about as large as AdamW's, so that one
learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: steep at zero, singular values end in about [0.7, 1.2]


def orthogonal(matrix: Tensor, steps: int = 5, fast: torch.dtype = torch.bfloat16) -> Tensor:
    """U V^T of matrix = U S V^T, roughly: [M, N] in, the same shape out."""
    a, b, c = QUINTIC
    flipped = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if flipped else matrix).to(fast)
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if flipped else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices, and convolutions read as [outputs, inputs x taps]."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, keep = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                slots = self.state[parameter]
                if not slots:
                    slots["momentum"] = torch.zeros_like(parameter)
                mean = slots["momentum"].lerp_(parameter.grad, 1 - keep)
                ahead = parameter.grad.lerp(mean, keep).flatten(1)  # Nesterov's look ahead
                size = 0.2 * max(ahead.shape) ** 0.5
                parameter.mul_(1 - rate * group["decay"])
                parameter.add_(orthogonal(ahead).reshape(parameter.shape), alpha=-rate * size)


def split(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(for Muon, for AdamW): hidden matrices; and tables, vectors and the layers that read or write pictures."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        edge = min(parameter.flatten(1).shape) <= 16 if parameter.dim() > 1 else True
        (rest if edge or "table" in name or "place" in name or "shift" in name else hidden).append(parameter)
    return hidden, rest
