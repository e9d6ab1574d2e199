# SPDX-License-Identifier: Apache-2.0
"""A run folder as an object of Python."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from dreamlab import pipeline
from dreamlab.core.files import Json
from dreamlab.core.types import Scene
from dreamlab.export.report import REPORT, read_report
from dreamlab.jobs.facts import standing
from dreamlab.python.doing import Progress, go
from dreamlab.python.pictures import RunPictures
from dreamlab.python.view import page_of
from dreamlab.recipe import Recipe
from dreamlab.recipe.changing import told
from dreamlab.run.folder import Run

COMMAND = ["dreamlab.Run.branch"]


class DreamRun:
    """A run: what was asked, what it is made of, what came of it. It holds nothing that its folder does not."""

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        self.path, self.device = Path(path), device
        self._run = Run(self.path)

    @property
    def id(self) -> str:
        return str(self._run.spec().get("id", self.path.name))

    @property
    def prompt(self) -> str:
        return str(self._run.spec().get("prompt", ""))

    @property
    def state(self) -> str:
        """created, running, succeeded, failed or interrupted; one that was killed is interrupted."""
        return standing(self.path, str(self._run.state().get("state", "created")))

    @property
    def step(self) -> int:
        return int(self._run.state().get("step", 0))

    @property
    def error(self) -> str:
        """Why it failed, if it did."""
        return str(self._run.state().get("error") or "")

    @property
    def parent(self) -> str:
        """The id of the run that it branched from, if it did."""
        return str((self._run.spec().get("parent") or {}).get("id", ""))

    @property
    def recipe(self) -> Recipe:
        """As it was resolved; files in it are named within the folder."""
        return pipeline.load_recipe(self._run)

    @property
    def metrics(self) -> list[Json]:
        """A row for every reading while it trained, by step; what was done again after a stop or a roll-back is there
        once."""
        rows: list[Json] = []
        for event in self._run.events():
            if event["kind"] != "metrics" or not isinstance(event.get("global_step"), int):
                continue
            row = {key: value for key, value in event.items() if key not in ("kind", "time", "global_step")}
            step = event["global_step"]
            while rows and rows[-1]["step"] >= step:
                rows.pop()
            rows.append(row | {"step": step})
        return rows

    @property
    def files(self) -> dict[str, Path]:
        """What is exported, by name."""
        found = sorted(path for path in self._run.export.rglob("*") if path.is_file() and path.name != REPORT)
        return {path.relative_to(self._run.export).as_posix(): path for path in found}

    @property
    def report(self) -> Json:
        """What the exported asset is made of, and how near it is to the scene."""
        return read_report(self._run.export)

    @functools.cached_property
    def scene(self) -> Scene:
        """The engine's own scene, as the newest checkpoint has it; it can be rendered, and its tensors be used."""
        with self._run.lock():
            return pipeline.finished_scene(self._run, self.device)[1]

    @property
    def pictures(self) -> RunPictures:
        return RunPictures(self._run, self.device, lambda: self.scene)

    def export(
        self,
        formats: str | Sequence[str] | None = None,
        preset: str | None = None,
        faces: int | None = None,
        texture: int | None = None,
        height: float | None = None,
        origin: str | None = None,
        levels: bool | None = None,
        provenance: bool | None = None,
    ) -> list[Path]:
        """Write its files again, in other formats and sizes; the paths of what was written."""
        names = formats if formats is None or isinstance(formats, str) else ",".join(formats)
        said = {"preset": preset, "faces": faces, "texture": texture, "height": height, "origin": origin}
        said |= {"levels": levels, "provenance": provenance, "formats": names}
        changes = told({f"export.{key}": value for key, value in said.items() if value is not None})
        return pipeline.export_again(self._run, self.device, changes)

    def resume(self, steps: int | None = None, progress: Progress = None) -> DreamRun:
        """Go on where the newest checkpoint is, to the end; `steps`: let the last stage have so many in all."""
        if steps is not None:
            pipeline.extend(self._run, steps)
        self.__dict__.pop("scene", None)
        go(self._run, self.device, progress)
        return self

    def branch(
        self, *, steps: int | None = None, out: str | Path | None = None, progress: Progress = None, **changes: object
    ) -> DreamRun:
        """Another run that starts where this one stands, with other settings for the steps to come; this one stays as
        it is. `steps` is of the last stage, in all; settings are named as those of a recipe."""
        last = len(self.recipe.stages) - 1
        more = {} if steps is None else {f"stages.{last}.steps": steps}
        made = pipeline.branch(
            self._run, None if out is None else Path(out), told(more | changes), COMMAND, self.device
        )
        go(made, self.device, progress)
        return DreamRun(made.path, self.device)

    def __repr__(self) -> str:
        return f"<dreamlab.Run {self.prompt!r}, {self.state} at step {self.step}: {self.path}>"

    def _repr_html_(self) -> str:
        return page_of(self)
