# SPDX-License-Identifier: Apache-2.0
"""Where an asset comes from, in the words of each format: all hold the same JSON under the same key."""

from __future__ import annotations

import json

from dreamlab.core.files import Json

KEY = "dreamlab"  # of a PNG's text, a comment of PLY and OBJ, USD's layer data


def one_line(origin: Json) -> str:
    """Printable ASCII, as the headers of old formats want it; nothing for what is not told."""
    return json.dumps(origin, separators=(",", ":"), sort_keys=True) if origin else ""
