# SPDX-License-Identifier: Apache-2.0
"""Several scenes that one rule trains: the particles of variational score distillation, and the prompts of a step.

Each step shows some of the particles, drawn from a stream of its own that checkpoints keep; only those get a gradient.
A rule that trains a network sees them all (Wang et al. 2023, arXiv:2305.16213, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.schedules import Progress
from dreamlab.core.streams import ViewStream, derive
from dreamlab.core.types import (
    PICTURES,
    Beginning,
    Frames,
    Offer,
    ParamGroup,
    Rows,
    Scene,
    Tallying,
    Training,
)


def rows_of(scene: Scene) -> int:
    """How many rows a scene has that views can see or not."""
    return next((len(group.tensor) for group in scene.groups().values() if group.rowwise), 0)


class Abreast:
    """Scenes that share the views of a step, each so many in a row; a scene for the time of that step.

    Each draws from a stream of its own, made of the step's number: another process may be drawing its neighbours.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.scenes = tuple(scenes)
        self._drawn: dict[int, Frames] = {}  # by the scenes that were drawn here

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training) -> Frames:
        part = training.stream.part if isinstance(training.stream, ViewStream) else None
        first, total = (0, len(cameras)) if part is None else (part.first, part.total)
        each = total // len(self.scenes)
        self._drawn = {}
        for j, scene in enumerate(self.scenes):
            stream = ViewStream(training.stream.device)
            stream.manual_seed(derive(training.stream.initial_seed(), "abreast", training.progress.step, j))
            own, begin = Training(training.progress, stream), j * each - first
            if 0 <= begin < len(cameras):
                views = slice(begin, begin + each)
                self._drawn[j] = scene.render(cameras[views], size, background[views], own)
            elif isinstance(scene, Beginning):
                scene.begin(own)
        whole = Frames.cat([replace(frames, visible=None) for frames in self._drawn.values()], PICTURES)
        return replace(whole, visible=self._visible())

    def _visible(self) -> Tensor | None:
        """The rows of all scenes, one scene after the other."""
        seen = [self._drawn[j].visible if j in self._drawn else None for j in range(len(self.scenes))]
        like = next((rows for rows in seen if rows is not None), None)
        if like is None:
            return None
        pairs = zip(self.scenes, seen, strict=True)
        return torch.cat([like.new_zeros(rows_of(scene)) if rows is None else rows for scene, rows in pairs])

    def penalty(self, name: str, frames: Frames) -> Tensor:
        """The mean over the scenes; each from its own frames, wherever it was drawn."""
        found = [self.scenes[j].penalty(name, own) for j, own in self._drawn.items()]
        return frames.total(torch.stack(found).sum()) / len(self.scenes)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        for scene in self.scenes:
            scene.adapt(progress, frames, healthy)
        return None

    def tallies(self) -> tuple[list[Tensor], list[Tensor]]:
        found = [scene.tallies() for scene in self.scenes if isinstance(scene, Tallying)]
        return [tally for sums, _ in found for tally in sums], [tally for _, most in found for tally in most]


class Particles:
    """A scene made of scenes; the first one is what is exported and shown."""

    kind: ClassVar[str] = "particles"

    def __init__(self, scenes: Sequence[Scene], seed: int, at_once: int = 1) -> None:
        self.scenes, self.at_once = tuple(scenes), at_once
        self.penalties = self.scenes[0].penalties
        self._stream = torch.Generator().manual_seed(seed)
        self._shown: tuple[int, ...] = (0,)
        self._abreast = Abreast(self.scenes[:1])

    def groups(self) -> Mapping[str, ParamGroup]:
        first = 0
        found: dict[str, ParamGroup] = {}
        for i, scene in enumerate(self.scenes):
            for name, group in scene.groups().items():
                found[f"{i}.{name}"] = replace(group, first=first)
            first += rows_of(scene) if self.at_once > 1 else 0
        return found

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        """In training one particle at random, or as many as a step shows, else the first."""
        if training is None:
            self._shown = (0,)
            return self.scenes[0].render(cameras, size, background)
        if self.at_once == 1:
            self._shown = (int(torch.randint(len(self.scenes), (1,), generator=self._stream)),)
            return self.scenes[self._shown[0]].render(cameras, size, background, training)
        order = torch.randperm(len(self.scenes), generator=self._stream)[: self.at_once]
        self._shown = tuple(order.tolist())
        self._abreast = Abreast([self.scenes[i] for i in self._shown])
        frames = self._abreast.render(cameras, size, background, training)
        return frames if frames.visible is None else replace(frames, visible=self._placed(frames.visible))

    def _placed(self, visible: Tensor) -> Tensor:
        """The rows of all particles; those not shown are not seen."""
        rows = [visible.new_zeros(rows_of(scene)) for scene in self.scenes]
        pieces = visible.split([rows_of(self.scenes[i]) for i in self._shown])
        for i, piece in zip(self._shown, pieces, strict=True):
            rows[i] = piece
        return torch.cat(rows)

    def penalty(self, name: str, frames: Frames) -> Tensor:
        several = len(self._shown) > 1
        return self._abreast.penalty(name, frames) if several else self.scenes[self._shown[0]].penalty(name, frames)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        after: Rows | None = None
        for i in self._shown:
            moved, mine = self.scenes[i].adapt(progress, frames, healthy), f"{i}."
            if moved is not None:
                after = Rows(moved.source, tuple(mine + name for name in moved.fresh), mine, after)
        return after

    def tallies(self) -> tuple[list[Tensor], list[Tensor]]:
        return Abreast([self.scenes[i] for i in self._shown]).tallies()

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
