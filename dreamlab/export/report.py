# SPDX-License-Identifier: Apache-2.0
"""`report.json` beside exported files: of which step of the run each is, of what it is made, how far from the scene it
is; and that nothing is written over by something older."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json, write_atomic
from dreamlab.core.text import shell
from dreamlab.recipe.grammar import FORMATS, PRESETS
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


def format_of(report: Json, name: str) -> str:
    """What a file was written for: a format, `preset:NAME` or `pictures`."""
    entry = report.get("files", {}).get(name)
    said = entry.get("format") if isinstance(entry, dict) else None
    if isinstance(said, str):
        return said
    # As version 0.1 named files, before it said so.
    if name == "model.mtl" or (name.startswith("model_") and name.endswith(".png")):
        return "obj"
    return name.removeprefix("model.") if name.startswith("model.") else "pictures"


def entries(files: Mapping[str, bytes], step: int, kind: str) -> Json:
    """What the report says of new files."""
    return {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "step": step, "format": kind}
        for name, data in files.items()
    }


def merged(folder: Path, new: Json, gone: Iterable[str] = (), **more: object) -> bytes:
    """The report with new entries and facts; what is known of other files that are still there is kept."""
    before, gone = read_report(folder), set(gone)
    known = {
        name: entry
        for name, entry in before.get("files", {}).items()
        if (folder / name).is_file() and name not in gone - set(new)
    }
    text = json.dumps(before | more | {"files": known | new}, indent=1, sort_keys=True, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def record(folder: Path, paths: Iterable[Path], step: int, kind: str, **more: object) -> None:
    """Say of files that are there already what they show and what they were written for."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    write_atomic(folder / REPORT, merged(folder, entries(files, step, kind), (), **more))


def leftovers(folder: Path, kinds: Iterable[str], written: Iterable[str]) -> list[str]:
    """Files of an earlier export in these formats that the new one has none of: pictures of a material that is gone."""
    report, kept = read_report(folder), set(written)
    kinds = set(kinds)
    return [name for name in report.get("files", {}) if format_of(report, name) in kinds and name not in kept]


def formats_to_write(folder: Path, wanted: Sequence[str], step: int) -> list[str]:
    """Those wanted, and those of which files lie in the folder that show another step: they would be taken for this
    one."""
    report = read_report(folder)
    named = [*report.get("files", {}), *(f.name for f in folder.glob("model.*") if f.is_file())]
    old = {
        format_of(report, name) for name in named if (folder / name).is_file() and step_of(report, name) != step
    } & set(FORMATS)  # pictures are drawn, and what lies beside is written, every time
    return [*wanted, *sorted(old - set(wanted))]


def presets_to_write(folder: Path, wanted: str, step: int) -> list[str]:
    """The preset that is wanted, and those whose folders show another step."""
    shown = {
        name: {step_of(report, file) for file in report["files"]}
        for name in PRESETS
        if (report := read_report(folder / name))
    }
    old = [name for name, steps in shown.items() if steps != {step}]
    return list(dict.fromkeys([*([] if wanted == PRESETS[0] else [wanted]), *old]))


def check_not_older(run: Run, step: int) -> None:
    """An export is never written over by an earlier state: that is what a damaged checkpoint would do."""
    shown = 0
    for model in sorted(found for found in run.export.rglob("*") if found.is_file() and found.name != REPORT):
        top = model.parent if (model.parent / REPORT).is_file() or model.parent == run.export else model.parent.parent
        written = step_of(read_report(top), model.relative_to(top).as_posix())
        shown = max(shown, int(run.state().get("step", 0)) if written is None else written)
    if shown > step:
        raise InputError(
            f"{run.export}: shows step {shown}, and the newest whole checkpoint is of step {step}; nothing is written "
            f"over. Make the lost steps again with: {shell('resume', run.path)} (or move that folder away)"
        )
