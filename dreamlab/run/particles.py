# SPDX-License-Identifier: Apache-2.0
"""Several scenes that one rule trains in turn: the particles of variational score distillation.

Each step shows one of them, drawn from a stream of its own that checkpoints keep; only that one gets a gradient. A rule
that trains a network sees them all (Wang et al. 2023, arXiv:2305.16213, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Frames, Offer, ParamGroup, Rows, Scene, Training


class Particles:
    """A scene made of scenes; the first one is what is exported and shown."""

    kind: ClassVar[str] = "particles"

    def __init__(self, scenes: Sequence[Scene], seed: int) -> None:
        self.scenes = tuple(scenes)
        self.penalties = self.scenes[0].penalties
        self._stream = torch.Generator().manual_seed(seed)
        self._shown = 0

    def groups(self) -> Mapping[str, ParamGroup]:
        return {f"{i}.{name}": group for i, scene in enumerate(self.scenes) for name, group in scene.groups().items()}

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        """In training one particle at random, else the first."""
        self._shown = int(torch.randint(len(self.scenes), (1,), generator=self._stream)) if training else 0
        return self.scenes[self._shown].render(cameras, size, background, training)

    def penalty(self, name: str, frames: Frames) -> Tensor:
        return self.scenes[self._shown].penalty(name, frames)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        moved, mine = self.scenes[self._shown].adapt(progress, frames, healthy), f"{self._shown}."
        return moved and Rows(moved.source, tuple(mine + name for name in moved.fresh), mine)

    def state_dict(self) -> dict[str, Tensor]:
        parts = {f"{i}": scene.state_dict() for i, scene in enumerate(self.scenes)}
        state = {f"{i}.{name}": value for i, part in parts.items() for name, value in part.items()}
        return state | {"stream": self._stream.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """From particles, in turn when they are fewer; or from one scene, which all of them become."""
        if "stream" not in state:
            for scene in self.scenes:
                scene.load_state_dict(state)
            return
        count = 1 + max(int(name.split(".")[0]) for name in state if name != "stream")
        for i, scene in enumerate(self.scenes):
            mine = f"{i % count}."
            scene.load_state_dict({n.removeprefix(mine): v for n, v in state.items() if n.startswith(mine)})
        self._stream.set_state(state["stream"].cpu())

    def offer(self, resolution: int) -> Offer:
        return self.scenes[0].offer(resolution)
