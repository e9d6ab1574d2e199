# SPDX-License-Identifier: Apache-2.0
"""A texture as a PNG of 8 bits a channel."""

from __future__ import annotations

import io

from torch import Tensor


def png_bytes(picture: Tensor) -> bytes:
    """Of [H, W, 1 or 3] in [0, 1], rounded."""
    from PIL import Image

    kept = io.BytesIO()
    values = (picture.detach().cpu().clamp(0, 1) * 255 + 0.5).byte().numpy()
    Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(kept, format="PNG")
    return kept.getvalue()
