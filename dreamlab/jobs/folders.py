# SPDX-License-Identifier: Apache-2.0
"""Where a run's folder lies: among the runs, on its way there, or in the trash. One rename leads from each to the next,
so that a folder is whole wherever it is, and a death between a row and its folder is mended by who comes next."""

from __future__ import annotations

import shutil
from pathlib import Path

from dreamlab.core.files import disk_errors, fsync_path
from dreamlab.jobs.database import FOLDER

MAKING, TRASH = "making", "trash"


def making(root: Path) -> Path:
    """Where folders are made: what has no row yet is not seen among the runs."""
    return root / FOLDER / MAKING


def trash(root: Path) -> Path:
    return root / FOLDER / TRASH


def settle(root: Path, run: str) -> Path:
    """The folder among the runs; moved there if its maker died before."""
    _move(making(root), root, run)
    return root / run


def to_trash(root: Path, run: str) -> None:
    settle(root, run)
    _move(root, trash(root), run)


def from_trash(root: Path, run: str) -> None:
    _move(trash(root), root, run)


def located(root: Path, run: str) -> Path:
    """Where it lies now; among the runs if nowhere."""
    return next((place / run for place in (root, making(root), trash(root)) if (place / run).is_dir()), root / run)


def empty(root: Path, run: str) -> None:
    """Remove it for good, by way of the trash: among the runs there is never half a one."""
    to_trash(root, run)
    place = trash(root) / run
    if run and place.is_dir():
        with disk_errors("removing a run", place):
            shutil.rmtree(place)


def _move(source: Path, target: Path, run: str) -> None:
    """Nothing where it is there already, or nowhere."""
    if not run or not (source / run).is_dir() or (target / run).exists():
        return
    with disk_errors("moving a run", target / run):
        target.mkdir(parents=True, exist_ok=True)
        try:
            (source / run).rename(target / run)
        except FileNotFoundError:  # another maker, or a worker, was quicker
            if not (target / run).is_dir():
                raise
        fsync_path(target)
        fsync_path(source)
