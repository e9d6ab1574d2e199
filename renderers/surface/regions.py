# SPDX-License-Identifier: Apache-2.0
"""A surface in regions of like colour: what is known of a material is too little for a texel, and enough for a part.

Colours are grouped by the farthest first (Gonzalez 1985), each group settled by means; brightness counts half, for it
is also light. Where a group lies in several pieces, each large enough is a region of its own, so that two parts of one
colour may be of two materials.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlab.core.triangles import areas

APART = 0.12  # sRGB distance from which colours are two
MOST = 12  # groups
ROUNDS = 5  # of settling
LEAST = 0.01  # share of the surface of a piece that is a region of its own
BRIGHTNESS = 0.5  # how much of it counts


def regions(vertices: Tensor, faces: Tensor, neighbours: Tensor, colours: Tensor) -> Tensor:
    """[F] the region of each triangle, from 0 without gaps; `colours` [F, 3] sRGB, `neighbours` [F, 3] as
    `edge_neighbours` says."""
    area = areas(vertices, faces)
    group = _groups(_felt(colours), area)
    piece = _pieces(group, neighbours)
    share = torch.zeros(int(piece.max()) + 1).to(area).index_add(0, piece, area) / area.sum()
    # What is too small for itself goes with the rest of its colour, wherever that is.
    alone = (share >= LEAST)[piece]
    label = torch.where(alone, MOST + piece, group)
    return torch.unique(label, return_inverse=True)[1]


def _felt(colours: Tensor) -> Tensor:
    """[F, 3] in which distances are those of colours, brightness counted in part."""
    mean = colours.mean(-1, keepdim=True)
    return colours - (1 - BRIGHTNESS) * mean


def _groups(felt: Tensor, area: Tensor) -> Tensor:
    """[F] which of a few colours each is nearest to."""
    centres = (felt * area[:, None]).sum(0, keepdim=True) / area.sum()
    while len(centres) < MOST:
        away = torch.cdist(felt, centres).amin(1)
        far = away > APART
        if float(area[far].sum()) < LEAST * float(area.sum()):
            break
        # Not the farthest triangle, which is an outlier, but the middle of the farthest hundredth of the surface.
        order = away.argsort(descending=True)
        enough = int((area[order].cumsum(0) < LEAST * area.sum()).sum()) + 1
        centres = torch.cat([centres, felt[order[:enough]].median(0).values[None]])
        for _ in range(ROUNDS):
            nearest = torch.cdist(felt, centres).argmin(1)
            weight = torch.zeros(len(centres)).to(area).index_add(0, nearest, area).clamp(min=1e-12)
            centres = torch.zeros_like(centres).index_add(0, nearest, felt * area[:, None]) / weight[:, None]
    return torch.cdist(felt, centres).argmin(1)


def _pieces(group: Tensor, neighbours: Tensor) -> Tensor:
    """[F] numbers of the connected pieces of equal groups."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    here = torch.arange(len(group), device=group.device)[:, None].expand_as(neighbours)
    there = neighbours.long().div(3, rounding_mode="floor")
    same = (neighbours >= 0) & (group[here] == group[there.clamp(min=0)])
    rows, columns = here[same].cpu().numpy(), there[same].cpu().numpy()
    joined = coo_matrix((torch.ones(len(rows)).numpy(), (rows, columns)), shape=(len(group), len(group)))
    return torch.from_numpy(connected_components(joined, directed=False)[1]).long().to(group.device)
