# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was written, the scene that it was made from beside it: contact sheet, turntable, poster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from dreamlab.core.cameras import Cameras
from dreamlab.core.files import Json
from dreamlab.core.types import Scene
from dreamlab.export.drawing import Viewed
from dreamlab.export.provenance import KEY, one_line
from dreamlab.recipe.grammar import Export
from dreamlab.run.preview import CHUNK, orbit_views, render_views, save_gif, save_sheet, save_video, to_bytes
from renderers.surface.pictures import averaged

SHEET_VIEWS, COLUMNS = 12, 4
POSTER, POSTER_VIEW = 512, 1  # pixels; of eight views around, a little from the side
LABEL = 12  # pixels of a line of text
GRAY = 110.0  # of a letter


Kept = dict[Fraction, np.ndarray]  # pictures by how far round they are
Drawing = Callable[[Cameras, int], np.ndarray]  # uint8 pictures [B, H, W, 3] over white of some size


def of_file(file: Viewed) -> Drawing:
    def draw(cameras: Cameras, size: int) -> np.ndarray:
        with torch.no_grad():
            return to_bytes(file.pictures(cameras, size, torch.ones(len(cameras), 3))[0])

    return draw


def of_scene(scene: Scene, device: torch.device) -> Drawing:
    return lambda cameras, size: np.stack(list(render_views(scene, cameras, size, device)))


def round_it(draw: Drawing, count: int, size: int, kept: Kept) -> Iterator[np.ndarray]:
    """Once around the object, and once through its motion; what was kept of another round is not drawn again."""
    cameras = orbit_views(count)
    for start in range(0, count, CHUNK):
        some = range(start, min(start + CHUNK, count))
        missing = [i for i in some if Fraction(i, count) not in kept]
        fresh = dict(zip(missing, draw(cameras[missing], size), strict=True)) if missing else {}
        for i in some:
            yield fresh[i] if i in fresh else kept[Fraction(i, count)]


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
    both = [(of_scene(scene, device), Kept())] + ([] if file is None else [(of_file(file), Kept())])
    told = {KEY: one_line(origin)} if origin else {}
    if "sheet" in kinds:
        made.append(folder / "contact.png")
        save_sheet(sheet(both, size), made[-1], COLUMNS, told)
    if "poster" in kinds:
        made.append(folder / "poster.png")
        save_sheet([poster(scene, file, device)], made[-1], 1, told)
    if "mp4" in kinds or "gif" in kinds:
        video = folder / "turntable.mp4"
        save_video(turning(both, size, wanted.turntable), video, size * len(both), size)
        if "gif" in kinds:
            save_gif(video, folder / "turntable.gif")
            made.append(folder / "turntable.gif")
        made.append(video)
    return made


Both = Sequence[tuple[Drawing, Kept]]  # the scene, and the file where it can be drawn


def sheet(both: Both, size: int) -> list[np.ndarray]:
    """Rows of four views of the file, and under each row the scene's own pictures of them, as it says in the corner.
    They are kept, for a turntable comes by most of them."""
    rounds = []
    for draw, kept in both:
        rounds.append(list(round_it(draw, SHEET_VIEWS, size, kept)))
        kept |= {Fraction(i, SHEET_VIEWS): picture for i, picture in enumerate(rounds[-1])}
    if len(both) == 1:
        return rounds[0]
    cells = list[np.ndarray]()
    for start in range(0, SHEET_VIEWS, COLUMNS):
        for pictures, word in ((rounds[1], "file"), (rounds[0], "scene")):
            row = pictures[start : start + COLUMNS]
            cells += [labelled(row[0], word), *row[1:]]
    return cells


def turning(both: Both, size: int, turns: int) -> Iterator[np.ndarray]:
    """Frames: the file to the left, the scene to the right."""
    own, *drawn = (round_it(draw, turns, size, kept) for draw, kept in both)
    if not drawn:
        yield from own
        return
    for left, right in zip(drawn[0], own, strict=True):
        yield np.concatenate([labelled(left, "file"), labelled(right, "scene")], 1)


def poster(scene: Scene, file: Viewed | None, device: torch.device) -> np.ndarray:
    camera = orbit_views(8)[POSTER_VIEW : POSTER_VIEW + 1]
    if file is None:
        return next(render_views(scene, camera, POSTER, device))
    with torch.no_grad():
        large = file.pictures(camera, 2 * POSTER, torch.ones(1, 3))[0]  # four samples a pixel
    return to_bytes(averaged(large, 2))[0]


def labelled(picture: np.ndarray, word: str) -> np.ndarray:
    """With a word in its upper left corner."""
    height, width = picture.shape[:2]
    if min(height, width) < 6 * LABEL:
        return picture
    ink = ink_of(word, min(width, 8 * LABEL), 2 * LABEL)
    made, (h, w) = picture.copy(), ink.shape[:2]
    made[:h, :w] = np.rint(made[:h, :w] * (1 - ink) + GRAY * ink)
    return made


@functools.cache
def ink_of(word: str, width: int, height: int) -> np.ndarray:
    """[height, width, 1] how much of each pixel a word covers."""
    from PIL import Image, ImageDraw

    made = Image.new("L", (width, height))
    ImageDraw.Draw(made).text((4, 2), word, fill=255)
    return np.asarray(made, np.float32)[..., None] / 255
