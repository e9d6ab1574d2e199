# SPDX-License-Identifier: Apache-2.0
"""The motion of one mesh for another that was made from it: rows taken, or the nearest ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dreamlab.core.types import Mesh, Skin, Track
from dreamlab.export.product import Product


def moved_rows(motion: Skin | Track | None, rows: Tensor) -> Skin | Track | None:
    """What moves the points of these rows as it moved those."""
    if isinstance(motion, Skin):
        return replace(motion, index=motion.index[rows], weight=motion.weight[rows])
    return None if motion is None else replace(motion, points=motion.points[:, rows])


def carried(made: Product, level: Mesh) -> Skin | Track | None:
    """The motion of a level."""
    from scipy.spatial import cKDTree

    if made.motion is None:
        return None
    near = torch.from_numpy(cKDTree(made.mesh.vertices.numpy()).query(level.vertices.numpy())[1])
    motion = moved_rows(made.motion, near)
    if not isinstance(motion, Track):
        return motion
    # It starts where the level's own points are.
    return replace(motion, points=motion.points + (level.vertices - motion.points[0]))
