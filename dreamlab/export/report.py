# SPDX-License-Identifier: Apache-2.0
"""`report.json` beside exported files: of which step of the run each is, and that nothing is written over by something
older."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json, sha256, write_json
from dreamlab.core.text import shell
from dreamlab.run.folder import Run

REPORT = "report.json"


def read_report(folder: Path) -> Json:
    """What is known of the files in a folder; nothing when there is no readable report."""
    try:
        found = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}


def step_of(report: Json, name: str) -> int | None:
    """The step of the run that a file shows, if somebody wrote it down."""
    entry = report.get("files", {}).get(name)
    step = entry.get("step") if isinstance(entry, dict) else None
    return step if isinstance(step, int) else None


def record(folder: Path, paths: Sequence[Path], step: int, **more: Any) -> None:
    """Say of these files that they show `step`; what is known of others that are still there is kept."""
    before = read_report(folder)
    known = {name: entry for name, entry in before.get("files", {}).items() if (folder / name).is_file()}
    new = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path), "step": step} for path in paths}
    write_json(folder / REPORT, before | more | {"files": known | new})


def drop_leftovers(folder: Path, paths: Sequence[Path]) -> None:
    """Material and pictures of an earlier mesh, when none of the files just written has any."""
    written = {path.name for path in paths}
    for name in read_report(folder).get("files", {}):
        if (name == "model.mtl" or (name.startswith("model_") and name.endswith(".png"))) and name not in written:
            (folder / Path(name).name).unlink(missing_ok=True)


def formats_to_write(folder: Path, wanted: Sequence[str], step: int, formats: Sequence[str]) -> list[str]:
    """Those wanted, and those that lie in the folder and show another step: they would be taken for this one."""
    report = read_report(folder)
    old = [kind for kind in formats if (folder / f"model.{kind}").exists() and step_of(report, f"model.{kind}") != step]
    return [*wanted, *(kind for kind in old if kind not in wanted)]


def check_not_older(run: Run, step: int) -> None:
    """An export is never written over by an earlier state: that is what a damaged checkpoint would do."""
    shown = 0
    for model in sorted(found for found in run.export.rglob("*") if found.is_file() and found.name != REPORT):
        written = step_of(read_report(model.parent), model.name)
        shown = max(shown, int(run.state().get("step", 0)) if written is None else written)
    if shown > step:
        raise InputError(
            f"{run.export}: shows step {shown}, and the newest whole checkpoint is of step {step}; nothing is written "
            f"over. Make the lost steps again with: {shell('resume', run.path)} (or move that folder away)"
        )
