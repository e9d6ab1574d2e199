# SPDX-License-Identifier: Apache-2.0
"""The account of a pipeline's steps: the ways that were tried, what each took and kept of the scene's pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dreamlab.core.bounded import Done, Unbounded, Work, bounded
from dreamlab.core.files import Json
from dreamlab.core.types import Mesh
from renderers.surface.finish.parcel import unpacked
from renderers.surface.pictures import Shots, drawn, likeness
from renderers.surface.views import Kept


class Way(NamedTuple):
    """One way to do a step."""

    name: str
    work: Work


@dataclass
class Journal:
    """Grows a line a step."""

    seconds: float
    memory: int
    truth: Shots | None = None
    steps: list[Json] = field(default_factory=list)
    kept: Kept | None = None  # by what the last step left
    measured: Mesh | None = None  # that

    def first(self, name: str, ways: Sequence[Way], apart: bool = True) -> Done | None:
        """Of the first way that comes to an end; nothing when none does. `apart`: in a process of its own."""
        said = []
        for i, way in enumerate(ways):
            label = name if i == 0 else f"{name}.{i}"  # which a planted fault may name
            try:
                done = bounded(way.work, label, self.seconds, self.memory) if apart else _here(way.work, label)
            except Unbounded as error:
                said.append(f"{way.name}: {str(error).removeprefix(label + ': ')}")
                continue
            self.steps.append({"name": name, "way": way.name, "why": "; ".join(said), "seconds": done.seconds})
            self.steps[-1] |= {key: value for key, value in done.facts.items() if key != "diverged"}
            return done
        self.steps.append({"name": name, "way": "none", "why": "; ".join(said), "seconds": 0.0})
        return None

    def mesh(self, name: str, ways: Sequence[Way], before: Mesh, otherwise: str = "") -> Mesh:
        """The same of ways that give a mesh; `before` when none does."""
        done = self.first(name, ways)
        mesh = before if done is None else unpacked(done.tensors)
        if done is None and otherwise:
            self.steps[-1]["why"] += f"; {otherwise}"
        self.measure(mesh)
        return mesh

    def skip(self, name: str, why: str) -> None:
        self.steps.append({"name": name, "way": "none", "why": why, "seconds": 0.0})

    def undo(self, way: str, why: str) -> None:
        """The last step's result is not used."""
        self.steps[-1] |= {"way": way, "why": why}

    def measure(self, mesh: Mesh) -> None:
        """What is kept after the last step."""
        if self.truth is not None:
            if self.kept is None or self.measured is None or not alike(mesh, self.measured):
                self.kept = likeness(self.truth, drawn(mesh, self.truth.cameras, self.truth.size))
            self.measured = mesh
            self.steps[-1] |= {"psnr": self.kept.psnr, "silhouette_iou": self.kept.iou}


def alike(one: Mesh, other: Mesh) -> bool:
    """Whether two surfaces without textures are the same numbers."""
    if one.textures is not None or other.textures is not None:
        return False
    pairs = ((one.vertices, other.vertices), (one.faces, other.faces), (one.colours, other.colours))
    return all(torch.equal(a, b) for a, b in pairs)


def _here(work: Work, label: str) -> Done:
    """In this process, without bounds: what it works on lies on a device that a child cannot reach."""
    began = time.process_time()
    try:
        tensors, facts = work()
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        raise Unbounded(f"{label}: more memory than there is") from error
    return Done({key: _home(value) for key, value in tensors.items()}, facts, time.process_time() - began)


def _home(value: Tensor) -> Tensor:
    return value.detach().cpu()
