# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was written, the scene that it was made from beside it: contact sheet, turntable, poster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dreamlab.core.files import Json
from dreamlab.core.types import Scene
from dreamlab.export.drawing import Viewed
from dreamlab.export.provenance import KEY, one_line
from dreamlab.recipe.grammar import Export
from dreamlab.run.preview import CHUNK, orbit_views, render_views, save_gif, save_sheet, save_video, to_bytes

SHEET_VIEWS, COLUMNS = 12, 4
POSTER, POSTER_VIEW = 512, 1  # pixels; of eight views around, a little from the side
LABEL = 12  # pixels of a line of text


def file_views(file: Viewed, count: int, size: int) -> Iterator[np.ndarray]:
    """uint8 pictures [H, W, 3] over white: once around the object, and once through its motion."""
    cameras = orbit_views(count)
    for start in range(0, count, CHUNK):
        some = cameras[start : start + CHUNK]
        with torch.no_grad():
            drawn = to_bytes(file.render(some, size, torch.ones(len(some), 3)).rgb)
        yield from drawn


def save_pictures(
    folder: Path,
    wanted: Export,
    scene: Scene,
    file: Viewed | None,
    device: torch.device,
    origin: Json,
) -> list[Path]:
    """The pictures that are wanted; without a file that can be drawn they show the scene alone. PNGs tell where they
    come from."""
    made, kinds, size = list[Path](), wanted.pictures, wanted.size
    told = {KEY: one_line(origin)} if origin else {}
    if "sheet" in kinds:
        made.append(folder / "contact.png")
        save_sheet(sheet(scene, file, size, device), made[-1], COLUMNS, told)
    if "poster" in kinds:
        made.append(folder / "poster.png")
        save_sheet([poster(scene, file, device)], made[-1], 1, told)
    if "mp4" in kinds or "gif" in kinds:
        video = folder / "turntable.mp4"
        save_video(turning(scene, file, size, wanted.turntable, device), video, size * (1 if file is None else 2), size)
        if "gif" in kinds:
            save_gif(video, folder / "turntable.gif")
            made.append(folder / "turntable.gif")
        made.append(video)
    return made


def sheet(scene: Scene, file: Viewed | None, size: int, device: torch.device) -> list[np.ndarray]:
    """Rows of four views of the file, and under each row the scene's own pictures of them, as it says in the corner."""
    own = list(render_views(scene, orbit_views(SHEET_VIEWS), size, device))
    if file is None:
        return own
    drawn, cells = list(file_views(file, SHEET_VIEWS, size)), []
    for start in range(0, SHEET_VIEWS, COLUMNS):
        for pictures, word in ((drawn, "file"), (own, "scene")):
            row = pictures[start : start + COLUMNS]
            cells += [labelled(row[0], word), *row[1:]]
    return cells


def turning(scene: Scene, file: Viewed | None, size: int, turns: int, device: torch.device) -> Iterator[np.ndarray]:
    """Frames: the file to the left, the scene to the right."""
    own = render_views(scene, orbit_views(turns), size, device)
    if file is None:
        yield from own
        return
    for drawn, there in zip(file_views(file, turns, size), own, strict=True):
        yield np.concatenate([labelled(drawn, "file"), labelled(there, "scene")], 1)


def poster(scene: Scene, file: Viewed | None, device: torch.device) -> np.ndarray:
    camera = orbit_views(8)[POSTER_VIEW : POSTER_VIEW + 1]
    if file is None:
        return next(render_views(scene, camera, POSTER, device))
    with torch.no_grad():
        large = file.render(camera, 2 * POSTER, torch.ones(1, 3)).rgb  # four samples a pixel
    smooth = torch.nn.functional.avg_pool2d(large.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    return to_bytes(smooth)[0]


def labelled(picture: np.ndarray, word: str) -> np.ndarray:
    """With a word in its upper left corner."""
    from PIL import Image, ImageDraw

    made = Image.fromarray(picture)
    if min(made.size) >= 6 * LABEL:
        ImageDraw.Draw(made).text((4, 2), word, fill=(110, 110, 110))
    return np.asarray(made)
