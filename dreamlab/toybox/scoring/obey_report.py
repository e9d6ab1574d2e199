# SPDX-License-Identifier: Apache-2.0
"""`dreamlab toybox obey`: tables in markdown, JSON with floors, and a contact sheet for each role."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.files import disk_errors, write_atomic, write_json
from dreamlab.core.text import did_you_mean
from dreamlab.run.preview import to_bytes
from dreamlab.toybox.scoring.board import prompts as held_out
from dreamlab.toybox.scoring.obey import Drawing, Obeyed, obey

ROLES = ("views", "control", "novel", "video")
WHAT = {  # role -> what its table shows
    "views": "views: four pictures of one object",
    "control": "control: a given surface is painted",
    "novel": "novel: a given picture from elsewhere, PSNR in dB",
    "video": "video: frames of the action, errors in pixels of 64",
}
SHOWS = {  # role -> what a strip of its sheet shows, in order
    "views": "true; samples; the image role's, one by one",
    "control": "for each camera: given normals, true picture, sample, image role's",
    "novel": "given; true views; samples; samples with the caption",
    "video": "true frames; samples",
}
NOVEL_FLOOR = 4.0  # dB above copying the given picture
STILL = 0.9  # of the error of a still clip: what hardly moves may by chance be a little better than that
LINE = 12


def command(roles: str, drawing: Drawing, count: int, out: Path, json: Path | None) -> None:
    """Measure, print the tables, write the sheets and the figures."""
    wanted = ROLES if roles == "all" else [name.strip() for name in roles.split(",")]
    for name in wanted:
        if name not in ROLES:
            raise RecipeError(f"--role {name!r}{did_you_mean(name, [*ROLES, 'all'])}")
    if json is not None and not json.parent.is_dir():
        raise InputError(f"{json.parent}: no such folder for --json")
    with disk_errors("making the folder of the sheets", out):
        out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in wanted:  # each is told as soon as it is known
        found.append(obey(name, held_out(count), drawing, lambda line: print(line, file=sys.stderr, flush=True)))
        print("\n".join(table(found[-1])), flush=True)
        print(f"{sheet(out / f'obey-{name}.png', found[-1])}\n", flush=True)
    if json is not None:
        with disk_errors("writing the figures", json):
            write_json(json, content(found))
        print(json)


def table(one: Obeyed) -> list[str]:
    """The role's figures in markdown."""
    figures = list(next(iter(one.rows.values())))
    head = [
        f"| {WHAT[one.role]} ({one.count} objects) | " + " | ".join(figures) + " |",
        "|" + " --- |" * (len(figures) + 1),
    ]
    rows = [
        f"| {name} | " + " | ".join(f"{row[figure]:.2f}" for figure in figures) + " |" for name, row in one.rows.items()
    ]
    return [*head, *rows, ""]


def checks(one: Obeyed) -> list[dict[str, object]]:
    """The claims: better than not listening."""
    mine, found = one.rows["samples"], []

    def claim(figure: str, floor: float, better: str = "higher") -> None:
        name = f"{one.role}: {figure}"
        found.append({"name": name, "value": mine[figure], "unit": "", "floor": floor, "better": better})

    if one.role == "novel":
        claim("above copying", NOVEL_FLOOR)
    elif one.role == "video":
        claim("trajectory error / still", STILL, "lower")
        claim("flow error / still", STILL, "lower")
    elif one.role == "control":
        lazy = one.rows.get("samples without the surface", one.rows["another true instance"])
        for figure in ("silhouette IoU", "shading correlation", "depth correlation"):
            claim(figure, lazy[figure])
    else:
        lazy = one.rows.get("samples one by one", one.rows["four true instances"])
        claim("nearest object, dB", lazy["nearest object, dB"])
        claim("each its own, dB more", lazy["each its own, dB more"], "lower")
    return found


def content(found: Sequence[Obeyed]) -> dict[str, object]:
    """Everything, as JSON values."""
    from dreamlab.metrics.figures import machine

    roles = {one.role: {"count": one.count, "prompts": list(one.prompts), "rows": one.rows} for one in found}
    return {"checks": [claim for one in found for claim in checks(one)], "machine": machine(), "roles": roles}


def sheet(path: Path, one: Obeyed) -> Path:
    """A strip for each object, with its prompt above."""
    from PIL import Image, ImageDraw

    tiles: Tensor = one.tiles
    count, wide, size = tiles.shape[0], tiles.shape[1], tiles.shape[2]
    columns = 2 if wide <= 12 else 1
    step, high = wide * size + 6, size + LINE + 2
    page = Image.new("RGB", (columns * step, LINE + 4 + -(-count // columns) * high), "white")
    pen = ImageDraw.Draw(page)
    pen.text((2, 1), f"{WHAT[one.role]}. {SHOWS[one.role]}", fill="black")
    strips = to_bytes(torch.cat(list(tiles.transpose(0, 1)), 2))
    for i, (prompt, strip) in enumerate(zip(one.prompts, strips, strict=True)):
        left, top = (i % columns) * step, LINE + 4 + (i // columns) * high
        pen.text((left + 2, top), prompt, fill="black")
        page.paste(Image.fromarray(strip), (left, top + LINE))
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    with disk_errors("writing the sheet", path):
        write_atomic(path, buffer.getvalue())
    return path
