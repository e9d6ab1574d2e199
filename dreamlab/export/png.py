# SPDX-License-Identifier: Apache-2.0
"""A texture as a PNG of 8 bits a channel, and its origin in an iTXt chunk (PNG 1.2, 4.2.3.3)."""

from __future__ import annotations

import io

from torch import Tensor

from dreamlab.core.files import Json
from dreamlab.export.provenance import KEY, one_line
from dreamlab.run.preview import RUNS, to_bytes


def png_bytes(picture: Tensor, origin: Json | None = None) -> bytes:
    """Of [H, W, 1, 3 or 4] in [0, 1], rounded."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    kept, told = io.BytesIO(), PngInfo()
    if line := one_line(origin or {}):
        told.add_itxt(KEY, line)
    values = to_bytes(picture.detach())
    Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(
        kept, format="PNG", pnginfo=told, compress_type=RUNS
    )
    return kept.getvalue()
