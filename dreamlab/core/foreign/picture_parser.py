# SPDX-License-Identifier: Apache-2.0
"""A user's PNG or JPEG as pixels, by Pillow; runs in the child of `apart`."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np

from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.foreign.headers import Refused

FORMATS = ("PNG", "JPEG")
MAX_FILE, MAX_SIDE, MIN_SIDE = 64 << 20, 8192, 16  # bytes, pixels
WORKING = 1024  # pixels of the longer side that is handed on


def parse(path: Path) -> dict[str, np.ndarray]:
    """`rgba` [H, W, 4] straight sRGB and alpha in 8 bits, upright, at most WORKING pixels long."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(io.BytesIO(read_bytes(path, "it", MAX_FILE)), formats=FORMATS)
        if max(picture.size) > MAX_SIDE or min(picture.size) < MIN_SIDE:
            wide, high = picture.size
            raise Refused(f"{wide} x {high} pixels; sides of {MIN_SIDE} to {MAX_SIDE} are read")
        if picture.mode.startswith(("I", "F")):
            raise Refused("has 16 or 32 bits per channel; save it with 8")
        picture = ImageOps.exif_transpose(picture).convert("RGBA")
    except Image.DecompressionBombError:
        raise Refused(f"too many pixels; sides of {MIN_SIDE} to {MAX_SIDE} are read") from None
    except Refused:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise Refused(_reason(error)) from None
    if max(picture.size) > WORKING:
        picture.thumbnail((WORKING, WORKING), Image.Resampling.BOX)
    return {"rgba": np.array(picture)}


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    place = "" if "BytesIO" in said or not said else f" ({said[:120]})"
    return f"cannot be read as PNG or JPEG{place}"
