# SPDX-License-Identifier: Apache-2.0
"""Two faces: does the back of an asset look like the front of the truth?

Every view from behind is compared with what true instances show from that camera and with what they show from the
opposite one, either way round. A classifier of sides was tried first and was too weak a witness; the truth is at hand,
so it is asked. Categories whose front and back hardly differ (a star, a sword) get no verdict.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.metrics.asset import DISTANCE, FOVY_DEG, Solid, judging_cameras
from dreamlab.metrics.impostors import blur
from dreamlab.metrics.judge_net import SIZE

BEHIND_DEG = 125.0  # of azimuth: three of the twelve views
SOFT = 1.5  # pixels of blur before comparing: an edge a pixel off is no other side
DIFFER = 0.10  # of the covered area: what front and back must differ by for a verdict
GROUND = 0.72


class Sides:
    """What true instances show from behind and from the opposite cameras, from in front."""

    def __init__(self, truths: list[Solid]) -> None:
        cameras = judging_cameras()
        count = len(cameras)
        self.behind = [i for i in range(count) if float(cameras.azimuth_deg[i].abs()) >= BEHIND_DEG]
        back = cameras[torch.tensor(self.behind)]
        front = orbit((back.azimuth_deg + 180).tolist(), back.elevation_deg.tolist(), DISTANCE, FOVY_DEG)
        self.backs = torch.stack([_mirrored(_look(one, back)) for one in truths])  # [K, 2, V, S, S, 4]
        self.fronts = torch.stack([_mirrored(_look(one, front)) for one in truths])
        self.differ = float(apart(self.backs[:, 0], self.fronts[:, 0]).mean())

    def fronts_seen(self, rgb: Tensor, alpha: Tensor) -> float | None:
        """Share of the views from behind (premultiplied over black, all V cameras) nearer to a front than to a back."""
        if self.differ < DIFFER:
            return None
        seen = _soft(rgb[self.behind], alpha[self.behind])
        front, back = (apart(seen, true).flatten(0, 1).amin(0) for true in (self.fronts, self.backs))  # [V]
        return float((front < back).float().mean())


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of pictures [..., S, S, 4] per pixel that either covers."""
    covered = torch.maximum(a[..., 3], b[..., 3]).sum((-2, -1)).clamp(min=1.0)
    return (a - b).abs().mean(-1).sum((-2, -1)) / covered


def _look(one: Solid, cameras: Cameras) -> Tensor:
    frames = one.render(cameras, SIZE, torch.zeros(len(cameras), 3))
    return _soft(frames.rgb, frames.alpha)


def _mirrored(pictures: Tensor) -> Tensor:
    """[2, V, S, S, 4]: as they are, and left for right, for a face that grew on the back is often a mirror image."""
    return torch.stack([pictures, pictures.flip(2)])


def _soft(rgb: Tensor, alpha: Tensor) -> Tensor:
    return torch.cat([blur(rgb, SOFT), blur(alpha.expand(-1, -1, -1, 3), SOFT)[..., :1]], -1)
