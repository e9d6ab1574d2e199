# SPDX-License-Identifier: Apache-2.0
"""What is measured: anything that renders itself and gives its surface: scenes, and true and trivial answers."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.types import Frames, Mesh, Scene
from dreamlab.metrics import impostors
from dreamlab.toybox.caption import Caption
from dreamlab.toybox.colours import Finish
from dreamlab.toybox.draw import draw
from dreamlab.toybox.mesh import mesh
from dreamlab.toybox.program import Program, Sketch
from dreamlab.toybox.shapes import CATEGORIES, program
from dreamlab.toybox.split import fraction, held_out_instance
from renderers.surface.extraction import extract
from renderers.surface.views import device_of

VIEWS = 12
ELEVATIONS = (12.0, 30.0, 4.0)  # in turn
DISTANCE, FOVY_DEG = 3.2, 42.0


class Asset(Protocol):
    """What measuring needs."""

    @property
    def device(self) -> torch.device:
        """Where it wants its cameras."""

    def render(self, cameras: Cameras, size: int, background: Tensor) -> Frames:
        """Pictures premultiplied over `background` [B, 3]."""

    def mesh(self, resolution: int) -> Mesh:
        """The surface, on the host."""


@dataclass(frozen=True)
class Made:
    """A scene as an asset. Its surface is found without looking, at the level that is usual for its kind."""

    scene: Scene

    @property
    def device(self) -> torch.device:
        return device_of(self.scene)

    def render(self, cameras: Cameras, size: int, background: Tensor) -> Frames:
        return self.scene.render(cameras, size, background)

    def mesh(self, resolution: int) -> Mesh:
        return extract(self.scene, resolution, by_pictures=False)


def judging_cameras(count: int = VIEWS) -> Cameras:
    """Evenly around, the first in front; elevations low and high in turn."""
    azimuth = [360.0 * i / count for i in range(count)]
    return orbit(azimuth, [ELEVATIONS[i % len(ELEVATIONS)] for i in range(count)], DISTANCE, FOVY_DEG)


@dataclass(frozen=True)
class Solid:
    """One object of the world as an asset."""

    program: Program

    @property
    def device(self) -> torch.device:
        return self.program.rows.device

    def render(self, cameras: Cameras, size: int, background: Tensor) -> Frames:
        shown = draw(self.program, cameras, size)
        rgb = shown.over(background[None, :, None, None])[0]
        return Frames(rgb, shown.alpha[0], shown.depth[0], background, shown.normal[0])

    def mesh(self, resolution: int) -> Mesh:
        found = mesh(self.program, resolution)
        normals = torch.zeros_like(found.vertices)  # measuring needs positions only
        return Mesh(found.vertices, found.faces, found.colours, normals)


def instances(category: str, count: int, held_out: bool = True) -> list[int]:
    """The first `count` instances on one side of the split."""
    seeds = range(100 * count + 100)
    return [seed for seed in seeds if held_out_instance(category, seed) == held_out][:count]


def true_answer(caption: Caption, instance: int) -> Solid:
    return Solid(program(caption.category, caption.finishes, instance))


def equal_sphere(caption: Caption, instance: int) -> Solid:
    """A ball of the true object's volume at its centre, in the main colour: the laziest answer."""
    truth = true_answer(caption, instance).program
    found = mesh(truth, 64)
    a, b, c = found.vertices[found.faces].double().unbind(1)
    signed = (a * torch.linalg.cross(b, c)).sum(-1, keepdim=True) / 6  # of the tetrahedra with the origin
    volume = float(signed.sum())
    centre = (signed * (a + b + c) / 4).sum(0) / volume
    sketch = Sketch()
    sketch.sphere("all", centre.tolist(), (volume * 3 / (4 * math.pi)) ** (1 / 3))
    return Solid(sketch.pack({"all": _main(caption)}, fit=None))


def wrong_category(caption: Caption, instance: int) -> Solid:
    """Another category, chosen by a hash of the name, in the asked colours."""
    others = [name for name in CATEGORIES if name != caption.category]
    name = min(others, key=lambda other: fraction("wrong", caption.category, other))
    category, asked = CATEGORIES[name], list(caption.finishes.values())
    chosen = dict(zip(category.nameable, asked, strict=False))
    return Solid(program(name, chosen, instance))


def blob(caption: Caption, instance: int) -> Solid:
    """A few soft ellipsoids in the asked colours."""
    rng = random.Random(f"{caption.category} {instance}")  # noqa: S311
    return Solid(impostors.blob(rng, [_main(caption), *caption.finishes.values()][-2:]))


def _main(caption: Caption) -> Finish:
    category = CATEGORIES[caption.category]
    return caption.finishes.get(category.main) or Finish(caption.colours[category.main])


TRIVIAL = {"sphere": equal_sphere, "wrong category": wrong_category, "blob": blob}
