# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run: those that it made of itself, and any other view of its scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dreamlab import pipeline
from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.errors import InputError
from dreamlab.core.types import Maker, Scene
from dreamlab.run.folder import Run
from dreamlab.run.preview import DISTANCE, ELEVATION_DEG, FOVY_DEG, orbit_views, render_views

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 4096


class RunPictures:
    """Pictures of PIL; as arrays by `numpy.asarray(picture)`."""

    def __init__(self, run: Run, device: str, scene: Callable[[], Scene]) -> None:
        self._run, self._device, self._scene = run, device, scene

    @property
    def sheet(self) -> Image:
        """Views all around, of the file and of the scene it was made from."""
        return self._kept("contact.png")

    @property
    def poster(self) -> Image:
        """The one that shows it best."""
        return self._kept("poster.png")

    @property
    def turntable(self) -> list[Image]:
        """Once around the object, and once through its motion if it moves."""
        export = pipeline.load_recipe(self._run).export
        return self._drawn(orbit_views(export.turntable), export.size)

    def render(
        self,
        azimuth: float = 30.0,
        elevation: float = ELEVATION_DEG,
        size: int = 256,
        time: float = 0.0,
        which: int = 0,
    ) -> Image:
        """The scene from anywhere: degrees around it, 0 its front, 90 from +X; degrees above; pixels a side; the
        time in [0, 1] of what moves; which prompt's of a run of many."""
        if not 1 <= size <= MOST_PIXELS:
            raise InputError(f"size: must be 1 to {MOST_PIXELS} pixels, not {size}")
        camera = replace(orbit([azimuth], elevation, DISTANCE, FOVY_DEG), time=torch.tensor([time]))
        return self._drawn(camera, size, which)[0]

    def _drawn(self, cameras: Cameras, size: int, which: int = 0) -> list[Image]:
        from PIL import Image

        scene = self._scene()
        if isinstance(scene, Maker):
            if not 0 <= which < scene.count():
                raise InputError(f"which: the run has {scene.count()} prompts, counted from 0; not {which}")
            scene = scene.made(which)
        return [Image.fromarray(view) for view in render_views(scene, cameras, size, torch.device(self._device))]

    def _kept(self, name: str) -> Image:
        """One that the run made, drawn now if it has not."""
        from PIL import Image

        path = next((path for path in self._places(name) if path.is_file()), None)
        if path is None:
            made = {path.name: path for path in pipeline.render_again(self._run, self._device)}
            if name not in made:
                raise InputError(f"{self._run.path}: makes no {name}: export.pictures of its recipe leaves it out")
            path = made[name]
        with Image.open(path) as picture:
            picture.load()
            return picture

    def _places(self, name: str) -> list[Path]:
        """Of several prompts, each has a folder."""
        return [self._run.export / name, *sorted(self._run.export.glob(f"0-*/{name}"))]
