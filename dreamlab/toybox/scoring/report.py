# SPDX-License-Identifier: Apache-2.0
"""A board as a table and as JSON, with the floors of the project; and `dreamlab toybox score` itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.files import disk_errors, write_json
from dreamlab.core.text import did_you_mean
from dreamlab.recipe.tables import TABLES
from dreamlab.toybox.scoring.board import Board, Means, prompts, score_run
from dreamlab.toybox.scoring.cells import to_plain
from dreamlab.toybox.scoring.images import ImageScore, score_images
from dreamlab.toybox.scoring.sheet import image_sheet, score_sheet

COLUMNS: dict[str, str] = {  # of the table: heading -> field of Means
    "accepted": "accepted",
    "main": "main_right",
    "second": "second_right",
    "colours": "colours_right",
    "janus": "janus",
    "IoU": "iou",
    "aligned": "iou_aligned",
    "Chamfer": "chamfer",
    "satur.": "saturation",
    "contrast": "contrast",
    "R-prec": "retrieved",
    "divers.": "diversity",
    "calls": "network_calls",
    "cpu s": "cpu_s",
    "network": "network_share",
}
FLOORS: dict[str, tuple[float, str]] = {  # field of Means -> floor, which side is better
    "accepted": (0.90, "higher"),
    "colours_right": (0.90, "higher"),
    "iou": (0.75, "higher"),
    "janus": (0.05, "lower"),
}
IMAGE_FLOOR = 0.85
SEPARATOR = ","


def lines(board: Board) -> list[str]:
    """A table: a line for each system and scene, then the trivial answers."""
    found = [f"{'system':<14}{'scene':<12}{'cells':>6}" + "".join(f"{heading:>9}" for heading in COLUMNS)]
    found += [f"{system:<14}{scene:<12}{_cells(row)}" for (system, scene), row in board.rows.items()]
    found += [f"{f'({name})':<26}{_cells(row)}" for name, row in board.trivial.items()]
    return found


def _cells(row: Means) -> str:
    return f"{row.cells:>6}" + "".join(f"{_number(getattr(row, name)):>9}" for name in COLUMNS.values())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def checks(board: Board | None, images: ImageScore | None) -> list[dict[str, object]]:
    """The claims with their floors, in the form of every `--json`."""
    found = []
    for (system, scene), row in (board.rows if board else {}).items():
        for name, (floor, better) in FLOORS.items():
            value = getattr(row, name)
            if value is not None:
                title = f"{name} {system} {scene}"
                found.append({"name": title, "value": value, "unit": "", "floor": floor, "better": better})
    if images:
        title = "image samples accepted with both colours right"
        found.append({"name": title, "value": images.right, "unit": "", "floor": IMAGE_FLOOR, "better": "higher"})
    return found


def content(board: Board | None, images: ImageScore | None) -> dict[str, object]:
    """Everything, as JSON values."""
    from dreamlab.metrics.figures import machine

    found: dict[str, object] = {"checks": checks(board, images), "machine": machine()}
    if board:
        found["rows"] = {" ".join(key): asdict(row) for key, row in board.rows.items()}
        found["trivial"] = {name: asdict(row) for name, row in board.trivial.items()}
        found["cells"] = [{k: v for k, v in to_plain(done).items() if k != "features"} for done in board.outcomes]
    if images:
        found["images"] = {
            "count": images.count,
            "accepted": images.accepted,
            "colours_right": images.colours_right,
            "right": images.right,
            "pictures": [asdict(picture) for picture in images.pictures],
        }
    return found


@dataclass(frozen=True)
class Scored:
    """The options of `dreamlab toybox score`, as given."""

    systems: str | None
    scenes: str | None
    guidance: str | None
    seeds: int
    prompts: int
    steps: int | None
    recipe: str
    settings: tuple[str, ...]
    images: int
    prior: str
    device: str


def command(wanted: Scored, out: Path, json: Path | None) -> None:
    """What `dreamlab toybox score` does: cells, table, sheets, JSON."""
    known = TABLES
    systems = _names("--systems", wanted.systems, known.systems)
    scenes = _names("--scenes", wanted.scenes, known.scenes)
    if wanted.guidance is not None:
        _names("--guidance", wanted.guidance, known.guidance)
    if json is not None and not json.parent.is_dir():
        raise InputError(f"{json.parent}: no such folder for --json")
    with disk_errors("making the folder of the scores", out):
        out.mkdir(parents=True, exist_ok=True)
    board = scored = None
    if wanted.prompts:
        board = score_run(
            prompts(wanted.prompts),
            range(wanted.seeds),
            systems,
            scenes,
            out=out,
            guidance=wanted.guidance,
            steps=wanted.steps,
            recipe=wanted.recipe,
            settings=wanted.settings,
            device=wanted.device,
            tell=print,
        )
        print("\n".join(lines(board)))
        print(score_sheet(out / "scores.png", board))
    if wanted.images:
        every = prompts()
        scored = score_images([every[i % len(every)] for i in range(wanted.images)], wanted.prior, device=wanted.device)
        print(
            f"images: {scored.count} samples, accepted {scored.accepted:.2f}, colours right "
            f"{scored.colours_right:.2f}, both {scored.right:.2f} (floor {IMAGE_FLOOR})"
        )
        print(image_sheet(out / "images.png", scored))
    if json is not None:
        with disk_errors("writing the scores", json):
            write_json(json, _finite(content(board, scored)))
        print(json)


def _names(option: str, given: str | None, known: Mapping[str, object]) -> list[str | None]:
    """The names of a comma-separated option; none given: what the recipe has."""
    if given is None:
        return [None]
    names = [name.strip() for name in given.split(SEPARATOR)]
    for name in names:
        if name not in known:
            raise RecipeError(f"{option}: no {name!r}{did_you_mean(name, known)}")
    return list(dict.fromkeys(names))


def _finite(value: object) -> object:
    """JSON has no infinities."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
