# SPDX-License-Identifier: Apache-2.0
"""Guides for the shape, as terms beside a rule that paints: stay in a box, stay near given points.

Both look at the rendered surface (depth unprojected, weighted by alpha), so they serve every scene. `cloud` follows the
point-cloud guides of GSGEN (Chen et al. 2023, arXiv:2309.16585) and the sketch shapes of Latent-NeRF (Metzer et al.
2022, arXiv:2211.07600); theirs act on Gaussians' centres and on density. The points come from a file or from a sketch
of simple bodies; `near` is its slack.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.foreign.points import read_points
from dreamlab.core.gather import taken
from dreamlab.core.settings import setting
from systems.engine.residual import Look
from systems.engine.rule import Rule, RuleSettings

DENSE = 2000  # points drawn on a part of a sketch
BODIES = ("ball", "box", "rod")


@dataclass(frozen=True)
class Part:
    """One body of a sketch; a rod is a cylinder along y."""

    body: str = setting("ball", choices=BODIES)
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)  # metres
    size: tuple[float, float, float] = (1.0, 1.0, 1.0)  # from end to end


def surface(look: Look) -> tuple[Tensor, Tensor]:
    """World points [N, 3] of the covered pixels, differentiable in the depth, and their alpha [N]."""
    frames, cameras = look.frames, look.cameras
    if frames is None or cameras is None:
        raise ValueError("a shape guide needs the frames and cameras of a step")
    depth, alpha = frames.depth[..., 0], frames.alpha[..., 0]
    there = ((alpha > 0.05) & (depth > 0)).reshape(-1).nonzero()[:, 0]
    return taken(cameras.points(depth).reshape(-1, 3), there), taken(alpha.reshape(-1), there)


class Box(Rule["Box.Settings"]):
    """Punish what is outside a box of the world."""

    paper: ClassVar[str] = "bounding boxes as in SemanticSDS (arXiv:2410.09009)"
    cost: ClassVar[str] = "0"
    needs: ClassVar[frozenset[str]] = frozenset()
    frames: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(RuleSettings):
        x: tuple[float, float] = (-1.0, 1.0)
        y: tuple[float, float] = (-1.0, 1.0)
        z: tuple[float, float] = (-1.0, 1.0)

    def loss(self, look: Look) -> Tensor:
        """Mean over all pixels of alpha times the squared distance to the box."""
        points, alpha = surface(look)
        assert look.frames is not None
        s = self.settings
        low, high = points.new_tensor([s.x, s.y, s.z]).unbind(1)
        outside = (low - points).relu() + (points - high).relu()
        return (alpha * outside.square().sum(-1)).sum() / look.frames.alpha.numel()


class Cloud(Rule["Cloud.Settings"]):
    """Keep the surface near given points, and every point near the surface."""

    paper: ClassVar[str] = "after Chen et al. 2023, arXiv:2309.16585; Metzer et al. 2022, arXiv:2211.07600"
    cost: ClassVar[str] = "0"
    needs: ClassVar[frozenset[str]] = frozenset()
    frames: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Settings(RuleSettings):
        points: str = setting("", file="points", help="a text file of x y z per line, metres")
        sketch: tuple[Part, ...] = ()
        near: float = setting(0.0, low=0, help="distance that is not punished yet")
        cover: float = setting(0.0, low=0, help="weight of points that no surface is near")
        most: int = setting(2048, low=1, help="surface points and given points compared in a step")

        def complaint(self) -> str:
            if self.sketch and self.points:
                return "give points or a sketch, not both"
            return "" if self.sketch or self.points else "points: name a file of x y z lines, or give a sketch"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.points = sketched(settings.sketch) if settings.sketch else read_points(Path(settings.points))

    def loss(self, look: Look) -> Tensor:
        c = self.settings
        seen, alpha = surface(look)
        if len(seen) == 0:
            return look.z.new_zeros(())
        stream = look.noise_stream
        pick = torch.randint(len(seen), (c.most,), generator=stream, device=stream.device).to(seen.device)
        self.points = self.points.to(seen)
        given = self.points[torch.randint(len(self.points), (c.most,), generator=stream, device=stream.device)]
        apart = torch.cdist(seen[pick], given)
        far = (apart.amin(1) - c.near).relu().square()
        uncovered = (apart.amin(0) - c.near).relu().square().mean()
        return (alpha[pick] * far).mean() + c.cover * uncovered


def sketched(parts: tuple[Part, ...]) -> Tensor:
    """[N, 3] points on the bodies' surfaces, those inside another body left out; the same every time."""
    stream = torch.Generator().manual_seed(0)
    kept = []
    for i, part in enumerate(parts):
        points = on_body(part.body, stream) * torch.tensor(part.size) / 2 + torch.tensor(part.at)
        hidden = torch.zeros(len(points), dtype=torch.bool)
        for j, other in enumerate(parts):
            local = 2 * (points - torch.tensor(other.at)) / torch.tensor(other.size)
            hidden |= (within(other.body, local) < 1 - 1e-4) if j != i else False
        kept.append(points[~hidden])
    return torch.cat(kept)


def on_body(body: str, stream: torch.Generator) -> Tensor:
    """[DENSE, 3] on the surface of a body that fills [-1, 1]^3; even before it is stretched."""
    if body == "ball":
        return torch.nn.functional.normalize(torch.randn(DENSE, 3, generator=stream), dim=-1)
    inside = 2 * torch.rand(DENSE, 3, generator=stream) - 1
    if body == "box":
        face = torch.randint(3, (DENSE, 1), generator=stream)
        return inside.scatter(1, face, torch.sign(inside.gather(1, face)))
    turn, height, cap = torch.pi * inside[:, 0], inside[:, 1], torch.rand(DENSE, generator=stream) < 1 / 3
    radius = torch.where(cap, inside[:, 2].abs().sqrt(), torch.ones(()))
    return torch.stack([radius * turn.sin(), torch.where(cap, height.sign(), height), radius * turn.cos()], -1)


def within(body: str, local: Tensor) -> Tensor:
    """[N] below 1 inside the body that fills [-1, 1]^3, 1 on its surface."""
    if body == "ball":
        return local.norm(dim=-1)
    if body == "box":
        return local.abs().amax(-1)
    return torch.maximum(local[:, [0, 2]].norm(dim=-1), local[:, 1].abs())
