# SPDX-License-Identifier: Apache-2.0
"""Guides for the shape, as terms beside a rule that paints: stay in a box, stay near given points.

Both look at the rendered surface (depth unprojected, weighted by alpha), so they serve every scene. `cloud` follows the
point-cloud guides of GSGEN (Chen et al. 2023, arXiv:2309.16585) and the sketch shapes of Latent-NeRF (Metzer et al.
2022, arXiv:2211.07600); theirs act on Gaussians' centres and on density. `near` is the sketch's slack.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.settings import setting
from systems.residual import Look, Stateless

LIMIT = 200_000  # points read


def surface(look: Look) -> tuple[Tensor, Tensor]:
    """World points [N, 3] of the covered pixels, differentiable in the depth, and their alpha [N]."""
    frames, cameras = look.frames, look.cameras
    if frames is None or cameras is None:
        raise ValueError("a shape guide needs the frames and cameras of a step")
    origin, ray = cameras.rays(*frames.depth.shape[1:3])
    along = -(ray * cameras.camera_to_world[:, None, None, :3, 2]).sum(-1, keepdim=True)
    points = origin[:, None, None] + ray * (frames.depth / along)
    there = (frames.alpha[..., 0] > 0.05) & (frames.depth[..., 0] > 0)
    return points[there], frames.alpha[..., 0][there]


class Box(Stateless):
    """Punish what is outside a box of the world."""

    paper: ClassVar[str] = "bounding boxes as in SemanticSDS (arXiv:2410.09009)"
    cost: ClassVar[str] = "0"
    needs: ClassVar[frozenset[str]] = frozenset()

    @dataclass(frozen=True)
    class Settings:
        x: tuple[float, float] = (-1.0, 1.0)
        y: tuple[float, float] = (-1.0, 1.0)
        z: tuple[float, float] = (-1.0, 1.0)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def loss(self, look: Look) -> Tensor:
        """Mean over all pixels of alpha times the squared distance to the box."""
        points, alpha = surface(look)
        assert look.frames is not None
        s = self.settings
        low, high = points.new_tensor([s.x, s.y, s.z]).unbind(1)
        outside = (low - points).relu() + (points - high).relu()
        return (alpha * outside.square().sum(-1)).sum() / look.frames.alpha.numel()


class Cloud(Stateless):
    """Keep the surface near given points, and every point near the surface."""

    paper: ClassVar[str] = "after Chen et al. 2023, arXiv:2309.16585; Metzer et al. 2022, arXiv:2211.07600"
    cost: ClassVar[str] = "0"
    needs: ClassVar[frozenset[str]] = frozenset()

    @dataclass(frozen=True)
    class Settings:
        points: str = setting("", help="a text file of x y z per line, metres")
        near: float = setting(0.0, low=0, help="distance that is not punished yet")
        cover: float = setting(0.0, low=0, help="weight of points that no surface is near")
        most: int = setting(2048, low=1, help="surface points and given points compared in a step")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.points = read_points(Path(settings.points))

    @staticmethod
    def check(settings: Settings) -> str | None:
        if not settings.points or not Path(settings.points).is_file():
            return f"points: {settings.points!r} is not a file of x y z lines"
        return None

    def loss(self, look: Look) -> Tensor:
        c = self.settings
        seen, alpha = surface(look)
        if len(seen) == 0:
            return look.z.new_zeros(())
        stream = look.noise_stream
        pick = torch.randint(len(seen), (c.most,), generator=stream, device=stream.device).to(seen.device)
        given = self.points[torch.randint(len(self.points), (c.most,), generator=stream, device=stream.device).cpu()]
        apart = torch.cdist(seen[pick], given.to(seen))
        far = (apart.amin(1) - c.near).relu().square()
        uncovered = (apart.amin(0) - c.near).relu().square().mean()
        return (alpha[pick] * far).mean() + c.cover * uncovered


def read_points(path: Path) -> Tensor:
    """[N, 3] of a text file."""
    rows = [[float(word) for word in line.split()[:3]] for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not rows or any(len(row) != 3 for row in rows) or len(rows) > LIMIT:
        raise ValueError(f"{path}: needs 1 to {LIMIT} lines of x y z")
    return torch.tensor(rows)
