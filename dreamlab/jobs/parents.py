# SPDX-License-Identifier: Apache-2.0
"""What a job starts from: another job, or the run of a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.jobs import folders
from dreamlab.jobs.states import Conflict, Job
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run


@dataclass(frozen=True)
class Parent:
    """A run, and what the queue says of it."""

    id: str
    run: str  # name of its folder
    folder: Path
    prompt: str
    recipe: str
    seed: int
    device: str  # kind that its checkpoints are of; none: not known


def parent_of(root: Path, given: Job | Run) -> Parent:
    """A run that holds a checkpoint, or an error that says what it lacks."""
    if isinstance(given, Run):
        return _of_run(root, given)
    if given.deleted:
        raise Conflict(f"job {given.id}: lies in the trash; restore it first")
    folder = folders.located(root, given.run)
    if not committed(folder / "ckpt"):
        raise Conflict(f"job {given.id}: has no checkpoint yet; wait for its first one")
    return Parent(given.id, given.run, folder, given.prompt, given.recipe, given.seed, given.wants)


def _of_run(root: Path, run: Run) -> Parent:
    if run.path.resolve().parent != root.resolve():
        raise InputError(f"{run.path}: lies elsewhere than the runs of this queue, {root}")
    if not committed(run.ckpt):
        raise Conflict(f"{run.path}: has no checkpoint yet")
    from dreamlab import pipeline

    recipe = pipeline.load_recipe(run)
    return Parent(str(run.spec().get("id")), run.path.name, run.path, recipe.prompt, "", recipe.seed, "")
