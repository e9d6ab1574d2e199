# SPDX-License-Identifier: Apache-2.0
"""A user's PNG, JPEG or WebP as pixels, or a PNG as a map of numbers, by Pillow; runs in the child of `apart`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.foreign.headers import Refused

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_FILE, MAX_SIDE, MIN_SIDE = 64 << 20, 8192, 16  # bytes, pixels
WORKING = 1024  # pixels of the longer side that is handed on


def parse(path: Path) -> dict[str, np.ndarray]:
    """`rgba` [H, W, 4] straight sRGB and alpha in 8 bits, upright, at most WORKING pixels long."""
    from PIL import Image, ImageOps

    with _opened(path, FORMATS) as picture:
        if picture.mode.startswith(("I", "F")):
            raise Refused("has 16 or 32 bits per channel; save it with 8")
        upright = ImageOps.exif_transpose(picture).convert("RGBA")
    if max(upright.size) > WORKING:
        upright.thumbnail((WORKING, WORKING), Image.Resampling.BOX)
    return {"rgba": np.array(upright)}


def parse_map(path: Path) -> dict[str, np.ndarray]:
    """`map` [H, W, 1 or 3] float32 in [0, 1], of 8 or 16 bits, at most WORKING pixels long; alpha is left out."""
    from PIL import Image

    with _opened(path, ("PNG",)) as picture:
        if picture.mode.startswith("I"):
            values = np.asarray(picture, np.float32)[..., None] / 65535
        else:
            gray = picture.mode in ("1", "L", "LA")
            values = np.asarray(picture.convert("L" if gray else "RGB"), np.float32) / 255
            values = values[..., None] if gray else values
    if max(values.shape[:2]) > WORKING:
        high, wide = (max(1, round(side * WORKING / max(values.shape[:2]))) for side in values.shape[:2])
        layers = [Image.fromarray(np.ascontiguousarray(layer)) for layer in np.moveaxis(values, -1, 0)]
        values = np.stack([np.asarray(layer.resize((wide, high), Image.Resampling.BOX)) for layer in layers], -1)
    return {"map": np.ascontiguousarray(values)}


@contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Iterator[Picture]:
    """A picture of a size that is read; what Pillow complains of in the block is a reason to refuse it."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture: Picture = Image.open(io.BytesIO(read_bytes(path, "it", MAX_FILE)), formats=formats)
        if max(picture.size) > MAX_SIDE or min(picture.size) < MIN_SIDE:
            wide, high = picture.size
            raise Refused(f"{wide} x {high} pixels; sides of {MIN_SIDE} to {MAX_SIDE} are read")
        yield picture
    except Image.DecompressionBombError:
        raise Refused(f"too many pixels; sides of {MIN_SIDE} to {MAX_SIDE} are read") from None
    except Refused:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Refused(_reason(error, " or ".join(formats))) from None


def _reason(error: Exception, formats: str) -> str:
    said = " ".join(str(error).split())
    place = "" if "BytesIO" in said or not said else f" ({said[:120]})"
    return f"cannot be read as {formats}{place}"
