# SPDX-License-Identifier: Apache-2.0
"""Binary STL: the shape alone, +Z up as slicers expect, in metres. Corners of one place have the same bits in every
triangle, so a surface that is closed here is closed for a reader who joins them."""

from __future__ import annotations

import numpy as np
import torch

from dreamlab import __version__
from dreamlab.export.product import Files, Product
from dreamlab.export.writers.axes import UP, upright

_HEADER = 80


def stl(made: Product) -> Files:
    mesh = upright(made.mesh)
    corners = mesh.vertices[mesh.faces]
    a, b, c = corners.unbind(1)
    facing = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-30)
    rows = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    rows["normal"], rows["corners"] = facing.numpy(), corners.numpy()
    words = f"DreamLab {__version__}; {UP}"  # may not begin with "solid", which is how the text form begins
    if seed := made.origin.get("seed"):
        words += f"; seed {seed}"
    head = words.encode("ascii", "replace")[:_HEADER].ljust(_HEADER)
    return {"model.stl": head + np.uint32(len(rows)).astype("<u4").tobytes() + rows.tobytes()}
