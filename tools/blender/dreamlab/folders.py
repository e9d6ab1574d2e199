# SPDX-License-Identifier: Apache-2.0
"""Run folders on disk, read without DreamLab: what there is to import. Knows nothing of Blender."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

MODELS = ("model.glb", "splats.glb", "model.gltf", "model.obj", "model.ply")  # of those there, the first is imported
MOST = 1 << 20  # bytes of a file that says something about a run
SHOWN = 200


@dataclass(frozen=True)
class Found:
    """An asset of a run: of several prompts each is one."""

    folder: Path
    prompt: str
    state: str
    model: Path
    picture: Path | None
    created: str


def _json(path: Path) -> dict[str, object]:
    """Nothing for what is missing, too large or no object."""
    try:
        if path.stat().st_size > MOST:
            return {}
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def runs(root: Path) -> list[Found]:
    """What the run folders under `root` hold, or `root` itself, newest first."""
    places = [root] if (root / "spec.json").is_file() else []
    with contextlib.suppress(OSError):
        places += [entry for entry in root.iterdir() if (entry / "spec.json").is_file()]
    found = [asset for place in places for asset in assets(place)]
    return sorted(found, key=lambda asset: asset.created, reverse=True)[:SHOWN]


def assets(run: Path) -> list[Found]:
    """The exported assets of one run."""
    spec, state = _json(run / "spec.json"), _json(run / "state.json")
    export = run / "export"
    folders = [export, *sorted(path for path in export.iterdir() if path.is_dir())] if export.is_dir() else []
    made = []
    for folder in folders:
        model = next((folder / name for name in MODELS if (folder / name).is_file()), None)
        if model is None or folder.name.startswith("."):
            continue
        report = _json(folder / "report.json")
        prompt = str(report.get("prompt") or spec.get("prompt") or run.name)
        picture = next((folder / name for name in ("poster.png", "contact.png") if (folder / name).is_file()), None)
        made.append(Found(folder, prompt, str(state.get("state", "?")), model, picture, str(spec.get("created", ""))))
    return made
