# SPDX-License-Identifier: Apache-2.0
"""Points of a surface carried by the Gaussians that make it.

A cloud's surface is a level of its density, so a point of it goes where the Gaussians around it take it: each carries
the point along in its own frame (place, turn and sizes), and the point goes to their mean, weighted by what each adds
to the density there. Where a deformation jumps between neighbouring Gaussians, this does not: a Gaussian's share fades
to nothing before it leaves the NEAREST, however the point moves along the surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.gather import taken
from dreamlab.core.rotation import matrix

NEAREST = 48  # Gaussians that carry a point
MOST = 60_000  # Gaussians
BLOCK = 1 << 14  # points moved at once
FAINT = 1 / 255  # opacity below which none does
SOME = 1e-3  # of a share, where all are many deviations away: the nearer ones still decide smoothly


@dataclass(frozen=True)
class Carriers:
    """Which Gaussians [V, k] carry each point, how much each counts, and where the point lies in their frames."""

    index: Tensor  # [V, k]
    share: Tensor  # [V, k], each row sums to 1
    own: Tensor  # [V, k, 3] in standard deviations, along the Gaussian's axes

    def at(self, means: Tensor, quats: Tensor, scales: Tensor) -> Tensor:
        """[V, 3] where the Gaussians, moved, take the points."""
        frames, found = matrix(quats) * scales[:, None], []
        for index, share, own in zip(*(each.split(BLOCK) for each in (self.index, self.share, self.own)), strict=True):
            there = taken(means, index) + torch.einsum("vkij,vkj->vki", taken(frames, index), own)
            found.append((share[..., None] * there).sum(1))
        return torch.cat(found)


def carrying(opacity: Tensor) -> Tensor:
    """Rows of the Gaussians that may carry points: those to be seen, and of very many a part all over them."""
    seen = torch.nonzero(opacity > FAINT)[:, 0]
    return seen[:: max(1, -(-len(seen) // MOST))]


def carriers(points: Tensor, means: Tensor, quats: Tensor, scales: Tensor, opacity: Tensor) -> Carriers:
    """Of points [V, 3] on the surface of Gaussians as they stand."""
    from scipy.spatial import cKDTree

    seen = torch.nonzero(means.isfinite().all(1))[:, 0]
    tree = cKDTree(means[seen].double().cpu().numpy())
    k = min(NEAREST, len(seen))
    away, row = tree.query(points.double().cpu().numpy(), k=k + 1 if len(seen) > k else k)
    distance = torch.from_numpy(away.reshape(len(points), -1)).to(points)
    farthest = distance[:, -1:].clamp(min=1e-9)  # of the first that does not count, where there are more
    index = seen[torch.from_numpy(row.reshape(len(points), -1)[:, :k]).to(seen.device)]
    back = (taken(matrix(quats), index) / taken(scales, index)[:, :, None]).transpose(2, 3)
    own = torch.einsum("vkij,vkj->vki", back, points[:, None] - taken(means, index))
    fading = (1 - (distance[:, :k] / farthest) ** 4).clamp(min=0).square() if len(seen) > k else 1.0
    dense = taken(opacity[:, None], index)[..., 0] * ((-0.5 * own.square().sum(-1)).exp() + SOME)
    share = dense * fading
    return Carriers(index, share / share.sum(1, keepdim=True).clamp(min=1e-30), own)
