# SPDX-License-Identifier: Apache-2.0
"""Adam over a scene's parameter groups, with scheduled rates and a device-side switch for unhealthy steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dreamlab.core.schedules import Progress
from dreamlab.core.types import Scene

BETA1, BETA2, EPS = 0.9, 0.99, 1e-15  # the values of the field (threestudio, Inria); eps small: gradients here are tiny


class Adam:
    """Kingma & Ba 2015. A step whose `healthy` flag is 0 changes nothing, and nobody waits to read the flag."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        groups = scene.groups()
        self.first = {name: torch.zeros_like(group.tensor) for name, group in groups.items()}
        self.second = {name: torch.zeros_like(group.tensor) for name, group in groups.items()}
        self.count = torch.zeros((), device=next(iter(groups.values())).tensor.device)  # healthy steps taken

    @torch.no_grad()
    def step(self, progress: Progress, healthy: Tensor, rate_scale: float = 1.0) -> None:
        """One update from the `.grad` of each group, then clear the gradients. `healthy` [] is 0 or 1."""
        self.count += healthy
        correction1, correction2 = 1 - BETA1**self.count, 1 - BETA2**self.count
        for name, group in self.scene.groups().items():
            grad = group.tensor.grad
            if grad is None:
                continue
            grad = torch.where(healthy > 0, grad, 0.0)  # a nan times 0 would stay a nan
            first, second = self.first[name], self.second[name]
            first.add_(healthy * (1 - BETA1) * (grad - first))
            second.add_(healthy * (1 - BETA2) * (grad.square() - second))
            move = (first / correction1) / ((second / correction2).sqrt() + EPS)
            move = torch.where(healthy > 0, move, 0.0)  # before the first healthy step the correction is 0 / 0
            group.tensor.sub_(group.rate.at(progress) * rate_scale * move)
            group.tensor.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        moments = {f"first.{k}": v for k, v in self.first.items()} | {f"second.{k}": v for k, v in self.second.items()}
        return moments | {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = self.count.device
        self.first = {name: state[f"first.{name}"].to(device).clone() for name in self.first}
        self.second = {name: state[f"second.{name}"].to(device).clone() for name in self.second}
        self.count = state["count"].to(device).clone()
