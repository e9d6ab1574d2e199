# SPDX-License-Identifier: Apache-2.0
"""What a given picture is taken for, for its owner to see and to overrule: where the object is, and what the embedded
prior's reader sees in it."""

from __future__ import annotations

import io
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json
from dreamlab.core.types import Reference
from dreamlab.jobs.beginning import masked
from dreamlab.recipe.picture import PictureSettings, found_in, png_of, read_picture
from dreamlab.studio.answers import Refusal
from guidance.toybox.prior import folder_of
from guidance.toybox.reader import FILE, Reader, load, read

SIDES = ("front", "left", "back", "right")  # its own, as the azimuth grows by quarters


@lru_cache(maxsize=1)
def reader() -> Reader:
    return load(folder_of("toybox-reader") / FILE)


def seen(path: Path, mask: Path | None = None) -> Reference:
    """The picture cut out, as a run would follow it; Refusal where no object is found, with what to do."""
    with tempfile.TemporaryDirectory() as folder:
        given = path if mask is None else masked(path, mask, Path(folder))
        try:
            return read_picture(given, PictureSettings())
        except InputError as error:
            said = str(error).partition(f"{given}: ")[2].partition("; ")[0] or str(error)
            way = "give a mask with it that is white where the object is, or a picture before one colour or nothing"
            raise Refusal(422, "no_object", said, way) from None


def taken_for(path: Path, mask: Path | None = None) -> Json:
    """`{"kind", "kinds": [{"name", "p"}], "sure", "colours", "side" (azimuth, 0 the front), "facing", "prompt"}`; the
    prompt is empty where it is not sure, as a run then has no words either."""
    sight = read(reader(), seen(path, mask))
    return {
        "kind": "picture",
        "kinds": [{"name": name, "p": round(share, 4)} for name, share in sight.likely],
        "sure": sight.sure,
        "colours": list(sight.colours),
        "side": round(sight.azimuth_deg, 1),
        "facing": SIDES[round(sight.azimuth_deg / 90) % 4],
        "prompt": sight.words if sight.sure else "",
    }


def cut_out(path: Path) -> bytes:
    """The object alone, square, as PNG with alpha."""
    return png_of(seen(path))


def mask_of(path: Path) -> bytes:
    """Where the object is in the whole picture: PNG, light is object."""
    from PIL import Image

    alpha = found_in(path, PictureSettings())
    buffer = io.BytesIO()
    Image.fromarray((alpha.numpy() * 255).round().astype(np.uint8), "L").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
