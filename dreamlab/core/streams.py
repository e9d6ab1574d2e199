# SPDX-License-Identifier: Apache-2.0
"""Named random streams from one seed: changing what one part draws does not move another part's draws."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

NAMES = ("camera", "noise", "timestep", "background", "init", "guidance", "render")
_ON_HOST = ("camera", "timestep", "init")  # drawn on the host on purpose: tiny, and equal on every device


class Streams:
    """One generator per purpose. `state_dict` goes into checkpoints, so that a resumed run draws on."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self._generators = {
            name: torch.Generator("cpu" if name in _ON_HOST else device).manual_seed(derive(seed, name))
            for name in NAMES
        }

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
