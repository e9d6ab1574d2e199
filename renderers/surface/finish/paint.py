# SPDX-License-Identifier: Apache-2.0
"""Colours of surface points as pictures show them, weighted by how well each shows them; and the colours of what no
picture shows, from what lies near it in space and looks the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext.seen import seen
from renderers.surface.draw import Surface, look
from renderers.surface.pictures import SOLID, Shots

GRAZING = 0.15  # cosine to the eye below which a picture says nothing of a point
BEHIND = 1.5  # pixels by which a point may lie behind what is seen at its place, over the cosine
CLIFF = 6.0  # pixels' widths of depth within a pixel's neighbourhood that make it an edge
TRUSTED = 0.05  # of weight: what was seen less takes more and more of its colour from around
NEIGHBOURS = 12  # points that a colour is filled from
TURN = 0.15  # metres that a unit of difference between normals counts for


class Lens(NamedTuple):
    """What B pictures know of a surface, ready to be asked about its points."""

    shots: Shots
    layers: Tensor  # [B, S, S, 5] colour, depth, 1 where both can be trusted


def lens(surface: Surface, shots: Shots) -> Lens:
    """Pixels beside the outline, and beside an edge in depth, mix two surfaces: they are left out."""
    layers = []
    for i in range(0, len(shots.cameras), 8):
        some = shots.take(list(range(i, min(i + 8, len(shots.cameras)))))
        view = look(surface, some.cameras, some.size)
        depth, there = view.depth, view.raster.triangle[..., None] > 0
        drop = largest(depth) + largest(-depth)
        width = depth / some.cameras.focal_px(some.size)[:, None, None, None]
        off = ~(there & (some.alpha > SOLID))
        good = (largest(off.float()) < 0.5) & (drop < CLIFF * width)
        layers.append(torch.cat([some.rgb, depth, good.float()], -1))
    return Lens(shots, torch.cat(layers))


def largest(pictures: Tensor) -> Tensor:
    """Of each pixel [B, H, W, 1] and its eight neighbours."""
    for axis in (1, 2):
        count = pictures.shape[axis]
        first, rest = pictures.narrow(axis, 0, count - 1), pictures.narrow(axis, 1, count - 1)
        pairs = torch.maximum(first, rest)  # of k and k + 1
        inner = torch.maximum(pairs.narrow(axis, 0, count - 2), pairs.narrow(axis, 1, count - 2))
        pictures = torch.cat([pairs.narrow(axis, 0, 1), inner, pairs.narrow(axis, count - 2, 1)], axis)
    return pictures


def seen_colours(lens: Lens, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [M, 3] of points, and the weight of all that saw them [M, 1]: cos^4 of the angle to the eye, over the
    square of the distance (1 at the mean distance of the cameras)."""
    cameras = lens.shots.cameras
    eyes, focal = cameras.camera_to_world[:, :3, 3], cameras.focal_px(lens.shots.size)
    known = (lens.layers, eyes, cameras.world_to_camera()[:, :3], focal)
    sums = seen(points, normals, *known, grazing=GRAZING, behind=BEHIND) * eyes.norm(dim=-1).mean().square()
    return sums[:, :3] / sums[:, 3:].clamp(min=1e-9), sums[:, 3:]


def spread(points: Tensor, normals: Tensor, colours: Tensor, weights: Tensor) -> Tensor:
    """[M, 3] with the colours of points that were not seen taken from the nearest that were, by distance and by how far
    they look the same way (MVPaint's rule: what faces elsewhere counts for nothing); what was seen little, in part."""
    from scipy.spatial import cKDTree

    known = (weights[:, 0] > TRUSTED).nonzero()[:, 0]
    blank = (weights[:, 0] <= TRUSTED).nonzero()[:, 0]
    if not len(known) or not len(blank):
        return colours
    # Among the nearest in space and direction together: the other side of a thin plate is far away.
    apart = torch.cat([points, TURN * normals], 1).numpy()
    distance, near = cKDTree(apart[known.numpy()]).query(apart[blank.numpy()], k=min(NEIGHBOURS, len(known)))
    distance, near = (torch.from_numpy(each).reshape(len(blank), -1) for each in (distance, near))
    alike = (1 + (normals[known][near] * normals[blank][:, None]).sum(-1)) / 2
    share = (alike.clamp(min=1e-4) ** 2 / (distance.float() + 1e-6))[..., None]
    found = (share * colours[known][near]).sum(1) / share.sum(1)
    trust = weights[blank] / TRUSTED
    return colours.index_copy(0, blank, trust * colours[blank] + (1 - trust) * found)
