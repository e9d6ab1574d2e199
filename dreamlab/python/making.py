# SPDX-License-Identifier: Apache-2.0
"""`dreamlab.dream`, `dreamlab.open` and `dreamlab.runs`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs import DEFAULT, PICTURED, find
from dreamlab import pipeline
from dreamlab.core.errors import RecipeError
from dreamlab.jobs.folders import located
from dreamlab.jobs.index import MOST, RunIndex
from dreamlab.python.doing import Progress, go
from dreamlab.python.made import DreamRun
from dreamlab.recipe import Recipe, dump
from dreamlab.recipe.changing import told
from dreamlab.run.folder import Run

COMMAND = ["dreamlab.dream"]


def dream(
    prompt: str | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    steps: int | None = None,
    seed: int | None = None,
    negative: str | None = None,
    image: str | Path | None = None,
    out: str | Path = "runs",
    device: str = "cpu",
    on_missing: str = "fail",
    strict: bool = False,
    progress: Progress = None,
    **settings: object,
) -> DreamRun:
    """Make an asset from a prompt, here and now, in a run folder under `out`.

    `recipe`: the name of a packaged one, a file, or a `Recipe`; settings of it as `size=32`, or by their full names:
    `**{"stages.0.scene.count": 900}`. `steps` is of every stage. `progress`: shown in notebooks and terminals; False:
    never; True: in scripts, too; or a function that is told. Ctrl-C leaves a checkpoint, and says how to go on.
    What the prompt asks for and will not get is a warning before the run; `strict`: a RecipeError, and no run.
    """
    if prompt is None and recipe is None and image is None:
        raise RecipeError('dream needs a prompt, e.g. dreamlab.dream("a red mushroom with a white stem")')
    given = {"seed": seed, "steps": steps, **settings}
    overrides = told({key: value for key, value in given.items() if value is not None})
    with _source(recipe, image) as (path, name):
        command = [*COMMAND, *([] if prompt is None else [prompt]), "--recipe", name, *overrides]
        picture = None if image is None else Path(image)
        run = pipeline.create(prompt, path, Path(out), overrides, negative, command, picture, on_missing, strict)
    go(run, device, progress)
    return DreamRun(run.path, device)


@contextmanager
def _source(recipe: str | Path | Recipe | None, image: str | Path | None) -> Iterator[tuple[Path, str]]:
    """The file of a recipe, for as long as it is read, and what it is called."""
    if not isinstance(recipe, Recipe):
        name = str(recipe) if recipe is not None else DEFAULT if image is None else PICTURED
        yield find(name), name
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "recipe.yaml")
        place.write_text(dump(recipe), "utf-8")
        yield place, "recipe.yaml"


def open_run(path: str | Path, device: str = "cpu") -> DreamRun:
    """A run that is there, finished or not, whoever made it."""
    return DreamRun(Run.open(Path(path)).path, device)


def list_runs(
    root: str | Path = "runs", text: str = "", sort: str = "newest", limit: int = 50, favourite: bool | None = None
) -> list[DreamRun]:
    """The runs in a folder, the newest first; `text`: words of their prompts. Damaged ones are left out."""
    place = Path(root)
    if not place.is_dir():
        return []
    with tempfile.TemporaryDirectory() as elsewhere:
        file = None if os.access(place, os.W_OK) else Path(elsewhere, "index.sqlite")
        index, found, cursor = RunIndex(place, file), list[DreamRun](), ""
        index.refresh()
        while len(found) < limit:
            page = index.page(text=text, sort=sort, limit=min(limit, MOST), cursor=cursor, favourite=favourite)
            found += [DreamRun(located(place, row.folder)) for row in page.rows if not row.damage]
            if not (cursor := page.next):
                break
    return found[:limit]
