# SPDX-License-Identifier: Apache-2.0
"""Named random streams from one seed: changing what one part draws does not move another part's draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("camera", "noise", "timestep", "background", "init", "guidance", "render")
_ON_HOST = ("camera", "timestep", "init")  # drawn on the host on purpose: tiny, and equal on every device


@dataclass(frozen=True)
class ViewShare:
    """Which of a step's views are drawn here."""

    first: int
    count: int
    total: int
    # Of things of which a view has any number: how many of other processes come before so many of ours, and all.
    counted: Callable[[int], tuple[int, int]]

    def place(self, rows: int, uneven: bool) -> tuple[int, int]:
        """Before so many rows of ours, and in all."""
        return self.counted(rows) if uneven else (rows * self.first // self.count, rows * self.total // self.count)


class ViewStream(torch.Generator):
    """A stream for what is drawn view by view: `part` says which views are ours, where others draw the rest."""

    part: ViewShare | None = None


def by_view(
    draw: Callable[..., Tensor],
    *shape: int,
    stream: torch.Generator,
    uneven: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """What `draw` (torch.rand, torch.randn) makes of `shape`, whose first axis goes view by view: for each view the
    same whoever draws the others. `uneven`: not every view has as many rows."""
    part = stream.part if isinstance(stream, ViewStream) else None
    before, total = (0, shape[0]) if part is None else part.place(shape[0], uneven)
    drawn = draw((total, *shape[1:]), generator=stream, device=stream.device, dtype=dtype)
    return drawn[before : before + shape[0]]


class Streams:
    """One generator per purpose. `state_dict` goes into checkpoints, so that a resumed run draws on."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self._generators = {
            name: torch.Generator("cpu" if name in _ON_HOST else device).manual_seed(derive(seed, name))
            for name in NAMES
            if name != "render"
        }
        self.render = ViewStream(device)
        self._generators["render"] = self.render.manual_seed(derive(seed, "render"))

    def __getattr__(self, name: str) -> torch.Generator:
        try:
            return self.__dict__["_generators"][name]
        except KeyError:
            raise AttributeError(f"no random stream {name!r}; streams are {', '.join(NAMES)}") from None

    def state_dict(self) -> dict[str, Tensor]:
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, generator in self._generators.items():
            generator.set_state(state[name].cpu())


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for a purpose; SHA-256, so neighbouring seeds share nothing."""
    text = ":".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
