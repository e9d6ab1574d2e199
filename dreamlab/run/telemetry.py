# SPDX-License-Identifier: Apache-2.0
"""A ring of metrics on the device: pushing copies scalars without waiting, draining is the one place that reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Ring:
    """`capacity` rows of the metrics `names`."""

    def __init__(self, names: Sequence[str], capacity: int, device: torch.device | str) -> None:
        self.names = tuple(names)
        self._rows = torch.zeros(capacity, len(self.names), device=device)
        self._steps: list[int] = []

    def push(self, step: int, **values: Tensor) -> None:
        """Scalars on the ring's device, one per name."""
        if len(self._steps) == len(self._rows):
            raise RuntimeError("the ring is full; drain it every `capacity` steps")
        self._rows[len(self._steps)] = torch.stack([values[name].detach().float() for name in self.names])
        self._steps.append(step)

    def drain(self) -> list[dict[str, float]]:
        """All rows since the last call, oldest first, each with its `step`. Waits for the device."""
        rows = self._rows[: len(self._steps)].tolist()
        found = [
            {"step": float(s)} | dict(zip(self.names, row, strict=True))
            for s, row in zip(self._steps, rows, strict=True)
        ]
        self._steps.clear()
        return found
