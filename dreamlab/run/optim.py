# SPDX-License-Identifier: Apache-2.0
"""Adam over a scene's parameter groups, with scheduled rates and a device-side switch for unhealthy steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cuda_ext.adam_groups import Group, adam_groups
from dreamlab.core.schedules import Progress
from dreamlab.core.types import ParamGroup, Rows, Scene

BETAS, EPS = (0.9, 0.99), 1e-15  # the values of the field (threestudio, Inria); eps small: gradients here are tiny


class Adam:
    """Kingma & Ba 2015. A step whose `healthy` flag is false changes nothing, and nobody waits to read the flag."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        tensors = {name: group.tensor.detach() for name, group in scene.groups().items()}
        self.first = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        self.second = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        self.count = {
            name: torch.zeros((), dtype=torch.int64, device=tensor.device) for name, tensor in tensors.items()
        }

    def step(
        self, progress: Progress, healthy: Tensor, visible: Tensor | None = None, rate_scale: float = 1.0
    ) -> Tensor:
        """One update from the `.grad` of each group, then clear the gradients; all or nothing.

        `healthy` [] bool; `visible` [N] bool leaves the rows that no view saw alone, in groups made of rows. Returns
        whether there was an update: `healthy`, and every gradient finite.
        """
        groups = []
        for name, group in self.scene.groups().items():
            grad, group.tensor.grad = group.tensor.grad, None
            if grad is None:
                continue
            groups.append(
                Group(
                    group.tensor.detach(),
                    grad,
                    self.first[name],
                    self.second[name],
                    self.count[name],
                    lr=group.rate.at(progress) * rate_scale,
                    visible=seen_rows(visible, group),
                )
            )
        return adam_groups(groups, healthy, betas=BETAS, eps=EPS)

    def follow(self, rows: Rows) -> None:
        """The moments of groups made of rows, after the scene has changed its rows."""
        if rows.more is not None:
            self.follow(rows.more)
        for name, group in self.scene.groups().items():
            if not group.rowwise or not name.startswith(rows.prefix):
                continue
            for moments in (self.first, self.second):
                kept = moments[name][rows.source.clamp(min=0)]
                new = (rows.source < 0).reshape(-1, *[1] * (kept.dim() - 1))
                moments[name] = torch.zeros_like(kept) if name in rows.fresh else kept.masked_fill(new, 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Flat, with names that are stable across checkpoints."""
        kinds = {"first": self.first, "second": self.second, "count": self.count}
        return {f"{kind}.{name}": tensor for kind, group in kinds.items() for name, tensor in group.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for kind, group in (("first", self.first), ("second", self.second), ("count", self.count)):
            for name, tensor in group.items():
                group[name] = state[f"{kind}.{name}"].to(tensor.device).clone()


def seen_rows(visible: Tensor | None, group: ParamGroup) -> Tensor | None:
    """Which rows of a group were seen."""
    if visible is None or not group.rowwise or len(visible) == len(group.tensor):
        return visible if group.rowwise else None
    return visible[group.first : group.first + len(group.tensor)]
