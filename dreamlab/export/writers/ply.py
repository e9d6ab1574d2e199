# SPDX-License-Identifier: Apache-2.0
"""PLY of a mesh, +Z up: colours of vertices, and coordinates of the texture under the names that Blender and MeshLab
read. There is no word for axes and units in the format; a comment says them.

Some readers refuse comments: an asset that tells nothing of its origin has none.
"""

from __future__ import annotations

import json

from dreamlab.core.files import Json
from dreamlab.export.png import png_bytes
from dreamlab.export.product import Files, Product
from dreamlab.export.provenance import KEY, one_line
from dreamlab.export.writers.axes import UP, upright
from renderers.surface.files import ply_bytes

PICTURE = "model_base_color.png"
LONGEST = 32_000  # characters of the origin


def _short(origin: Json) -> Json:
    """Without its longest part where a header would grow beyond what readers take."""
    if len(one_line(origin)) <= LONGEST:
        return origin
    longest = max(origin, key=lambda key: len(json.dumps(origin[key])))
    return _short({key: value for key, value in origin.items() if key != longest})


def ply(made: Product) -> Files:
    textures, comments = made.mesh.textures, []
    if made.origin:
        comments = [f"DreamLab {UP}", f"{KEY} {one_line(_short(made.origin))}"]
        comments += [] if textures is None else [f"TextureFile {PICTURE}"]  # MeshLab's
    files = {"model.ply": ply_bytes(upright(made.mesh), comments)}
    return files if textures is None else files | {PICTURE: png_bytes(textures.base, made.origin)}
