# SPDX-License-Identifier: Apache-2.0
"""The contact sheet of a board: prompt, two true views, four views of the result, the verdict. The eye judges last."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from torch import Tensor

from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.metrics.asset import instances, true_answer
from dreamlab.metrics.measure import parse_plain
from dreamlab.run.preview import to_bytes
from dreamlab.toybox.draw import draw
from dreamlab.toybox.scoring.board import Board, verdict_of
from dreamlab.toybox.scoring.cells import PICTURE, SIDES, Outcome, sides
from dreamlab.toybox.scoring.images import ImageScore

LINE = 12  # height of a line of text
COLUMNS = 2
TRUE_VIEWS = 2
GOOD, BAD = (0, 110, 0), (170, 0, 0)


def score_sheet(path: Path, board: Board) -> Path:
    """Write the PNG, cells in the order of the prompts."""
    from PIL import Image, ImageDraw

    tile = PICTURE * (TRUE_VIEWS + len(SIDES)) + 8
    high = PICTURE + 2 * LINE + 4
    rows = -(-len(board.outcomes) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * tile, rows * high), "white")
    pen = ImageDraw.Draw(page)
    for i, done in enumerate(board.outcomes):
        left, top = (i % COLUMNS) * tile, (i // COLUMNS) * high
        pen.text(
            (left + 2, top), f"{done.cell.prompt}  ({' '.join(done.cell.row)}, seed {done.cell.seed})", fill="black"
        )
        good = done.figures is not None and done.figures.accepted and done.figures.colours_right
        pen.text((left + 2, top + LINE), verdict_of(done)[:100], fill=GOOD if good else BAD)
        page.paste(Image.fromarray(_strip(done)), (left, top + 2 * LINE))
    return _write(path, page)


def image_sheet(path: Path, score: ImageScore, columns: int = 8) -> Path:
    """Samples of the prior with what was found in them."""
    from PIL import Image, ImageDraw

    size = score.rgb.shape[1]
    wide, high = 2 * size + 6, 2 * size + 2 * LINE + 4
    page = Image.new("RGB", (columns * wide, -(-score.count // columns) * high), "white")
    pen = ImageDraw.Draw(page)
    for i, (one, picture) in enumerate(zip(score.pictures, to_bytes(score.rgb), strict=True)):
        left, top = (i % columns) * wide, (i // columns) * high
        pen.text((left + 2, top), one.prompt[:24], fill="black")
        colours = "".join("" if x is None else "+" if x else "-" for x in (one.main_right, one.second_right))
        taken = "accepted" if one.accepted else one.category
        pen.text((left + 2, top + LINE), f"{taken[:14]} {one.score:.2f} {colours}", fill=GOOD if one.right else BAD)
        page.paste(Image.fromarray(picture).resize((2 * size, 2 * size)), (left, top + 2 * LINE))
    return _write(path, page)


def _strip(done: Outcome) -> np.ndarray:
    """True views, then the result's; blank where there is no result."""
    from PIL import Image

    caption = parse_plain(done.cell.prompt)
    truth = true_answer(caption, instances(caption.category, 1)[0])
    shown: Tensor = draw(truth.program, sides()[:TRUE_VIEWS], PICTURE).over(0.88)[0]
    strip = np.full((PICTURE, PICTURE * (TRUE_VIEWS + len(SIDES)), 3), 255, np.uint8)
    strip[:, : PICTURE * TRUE_VIEWS] = np.concatenate(list(to_bytes(shown)), 1)
    if done.pictures.is_file():
        result = np.asarray(Image.open(done.pictures).convert("RGB"))
        strip[:, PICTURE * TRUE_VIEWS :] = result[:PICTURE, : PICTURE * len(SIDES)]
    return strip


def _write(path: Path, page: object) -> Path:
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)  # type: ignore[attr-defined]
    with disk_errors("writing the sheet", path):
        write_atomic(path, buffer.getvalue())
    return path
