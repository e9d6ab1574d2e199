# SPDX-License-Identifier: Apache-2.0
"""How canonical Gaussians move: three deformations with one interface, all of which start as no motion at all.

A deformation gives, for points [N, 3] at one time, a shift [N, 3], a turn (half the axis-angle, [N, 3]) and a log
factor of the scales [N, 3]. Everything is multiplied by xi(time) = time^power (Align Your Gaussians,
arXiv:2312.13763, has 0.35), so that time 0 is the static object; power 0 switches that off. A loop has the distance
from its nearer end, 1 - |2 time - 1|, in the place of time.

mlp       sinusoidal encoding of position and time, hidden layers, a last layer of zeros
hexplane  six planes of features over pairs of x, y, z, t (HexPlane, arXiv:2301.09632; DreamGaussian4D), whose product
          goes through a small network with a last layer of zeros
control   K control points with a pose of their own over time, blended by fixed normalised Gaussian weights of the
          nearest few (SC-GS, arXiv:2312.14937): linear blend skinning, which exports as a skin
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, linear

from dreamlab.core.gather import taken
from dreamlab.core.knots import beside, between
from dreamlab.core.rotation import from_vector, matrix, product
from dreamlab.core.schedules import Schedule, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import ParamGroup
from renderers.gaussian.one_way import faded

KINDS = ("mlp", "hexplane", "control")
PLANES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # pairs of x, y, z, t
XYZ_OCTAVES, TIME_OCTAVES = 4, 6


@dataclass(frozen=True)
class DeformSettings:
    kind: str = setting("control", choices=KINDS)
    hidden: int = setting(64, low=4, high=512, help="width of the networks")
    layers: int = setting(2, low=1, high=8, help="mlp: hidden layers")
    resolution: int = setting(32, low=2, high=512, help="hexplane: cells per axis in space")
    moments: int = setting(12, low=2, high=256, help="hexplane, control: knots in time")
    channels: int = setting(16, low=1, high=128, help="hexplane: features per plane")
    points: int = setting(64, low=2, high=4096, help="control: control points")
    nearest: int = setting(4, low=1, high=16, help="control: points that move a Gaussian")
    smooth: bool = setting(False, help="control: ways through the knots without corners", tacit=True)
    power: float = setting(0.0, low=0, high=4, help="of time^power before the motion; 0: none; the paper has 0.35")
    loop: bool = setting(False, help="time 1 is time 0 again")
    scales: bool = setting(False, help="the motion may also change sizes")
    whole: bool = setting(
        False, help="control: beneath its points all moves as one, and may be smaller and elsewhere", tacit=True
    )
    one_way: float = setting(
        0.0,
        low=0,
        high=1,
        help="with whole: part of what leaves the one way of the motion that each step takes away",
        tacit=True,
    )
    lr_network: Schedule = setting(ramp(0.002, 0.0002, curve="exp"), low=0)
    lr_planes: Schedule = setting(ramp(0.02, 0.002, curve="exp"), low=0)
    lr_control: Schedule = setting(ramp(0.01, 0.001, curve="exp"), low=0)
    lr_whole: Schedule = setting(ramp(0.02, 0.002, curve="exp"), low=0, tacit=True)


@dataclass(frozen=True)
class Motion:
    """What moves N points at one time."""

    shift: Tensor  # [N, 3] metres
    turn: Tensor  # [N, 4] quaternion wxyz, applied after the point's own
    grow: Tensor  # [N, 3] added to log scales


class Deformation:
    """Parameters of a motion over time in [0, 1]. Control points are put on `still` [N, 3], the canonical scene."""

    def __init__(self, settings: DeformSettings, still: Tensor, generator: torch.Generator) -> None:
        s = self.settings = settings
        g, width = generator, 9 if settings.scales else 6
        params: dict[str, Tensor] = {}
        if s.kind == "mlp":
            sizes = [3 + 6 * XYZ_OCTAVES + 2 * TIME_OCTAVES] + [s.hidden] * s.layers
            for i, (a, b) in enumerate(itertools.pairwise(sizes)):
                params[f"weight{i}"], params[f"bias{i}"] = _he(b, a, g), torch.zeros(b)
            params["last"] = torch.zeros(width, s.hidden)
        elif s.kind == "hexplane":
            for i, (a, b) in enumerate(PLANES):
                cells = [s.moments if axis == 3 else s.resolution for axis in (b, a)]
                # Planes in space start near 0.5, planes with time at 1: the product is then independent of time.
                start = torch.ones(s.channels, *cells)
                params[f"plane{i}"] = start if b == 3 else 0.1 + 0.4 * torch.rand(start.shape, generator=g)
            params["weight0"], params["bias0"] = _he(s.hidden, s.channels, g), torch.zeros(s.hidden)
            params["last"] = torch.zeros(width, s.hidden)
        else:
            params["anchors"], params["reach"] = anchored(still, s.points)
            params["poses"] = torch.zeros(s.moments, len(params["anchors"]), 6)
            if s.whole:
                params["whole"] = torch.tensor([1.0, *[0.0] * 6]).repeat(s.moments, 1)  # quaternion, shift
                params["place"] = torch.zeros(4)  # shift, logarithm of the size
        self.params = params
        self.load(params)

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.params = {name: state[name].detach().clone().requires_grad_() for name in self.params}

    def groups(self) -> dict[str, ParamGroup]:
        s = self.settings
        rates = {"poses": s.lr_control, "whole": s.lr_whole, "place": s.lr_whole} | {
            f"plane{i}": s.lr_planes for i in range(6)
        }
        fixed = ("anchors", "reach")  # the skin's bind pose
        return {
            name: ParamGroup(p, rates.get(name, s.lr_network)) for name, p in self.params.items() if name not in fixed
        }

    def scaled_time(self, time: Tensor) -> Tensor:
        """xi(time), []; of a loop that of the nearer end, so that it closes without a jump."""
        if not self.settings.power:
            return torch.ones_like(time)
        away = 1 - (2 * time - 1).abs() if self.settings.loop else time
        return away.clamp(min=1e-9) ** self.settings.power

    def at(self, points: Tensor, time: Tensor, skin: tuple[Tensor, Tensor] | None = None) -> Motion:
        """Motion of points [N, 3] at `time` [] in [0, 1]; `skin`: theirs, for who keeps it while they stay."""
        time = torch.remainder(time, 1.0) if self.settings.loop else time.clamp(0, 1)
        still = points.detach()  # the motion is learned where the Gaussians are; it does not pull on where that is
        if self.settings.kind == "control":
            moved = self._blended(points, time, skin)
            return self._as_one(points, moved, time) if self.settings.whole else moved
        raw = self._network(still, time) if self.settings.kind == "mlp" else self._planes(still, time)
        raw = raw * self.scaled_time(time)
        grow = raw[:, 6:] if self.settings.scales else torch.zeros_like(raw[:, :3])
        return Motion(raw[:, :3], from_vector(raw[:, 3:6]), grow)

    def _network(self, points: Tensor, time: Tensor) -> Tensor:
        octaves = 2.0 ** torch.arange(XYZ_OCTAVES, device=points.device) * math.pi
        angles = (points[:, :, None] * octaves).flatten(1)
        # Whole periods in [0, 1] when the motion loops, half periods otherwise.
        turns = (
            (1 if self.settings.loop else 0.5) * 2 * math.pi * (1 + torch.arange(TIME_OCTAVES, device=points.device))
        )
        clock = (time * turns).expand(len(points), -1)
        hidden = torch.cat([points, angles.sin(), angles.cos(), clock.sin(), clock.cos()], 1)
        p = self.params
        for i in range(self.settings.layers):
            hidden = (linear(hidden, p[f"weight{i}"]) + p[f"bias{i}"]).relu()
        return linear(hidden, p["last"])

    def _planes(self, points: Tensor, time: Tensor) -> Tensor:
        p = self.params
        where = torch.cat([points.clamp(-1, 1), (2 * time - 1).expand(len(points), 1)], 1)
        feature = torch.ones((), device=points.device)
        for i, (a, b) in enumerate(PLANES):
            plane = p[f"plane{i}"]
            if self.settings.loop and b == 3:
                plane = torch.cat([plane[:, :-1], plane[:, :1]], 1)
            at = torch.stack([where[:, a], where[:, b]], -1)[None, None]
            feature = feature * grid_sample(plane[None], at, align_corners=True, padding_mode="border")[0, :, 0].T
        hidden = (linear(feature, p["weight0"]) + p["bias0"]).relu()
        return linear(hidden, p["last"])

    def roughness(self, name: str) -> Tensor:
        """HexPlane's regularisers, []: plane_tv, squared steps in space; time_smooth, squared second differences along
        time (of control poses too); time_l1, distance of the planes with time from 1, which is no motion."""
        kind, p = self.settings.kind, self.params
        moving = [p[f"plane{i}"] for i, (_, b) in enumerate(PLANES) if b == 3] if kind == "hexplane" else []
        if name == "time_smooth" and kind != "mlp":
            tables = moving or [p["poses"][None]]  # time is axis 1
            return torch.stack([t.diff(n=2, dim=1).square().mean() for t in tables]).mean()
        if name == "plane_tv" and kind == "hexplane":
            still = [p[f"plane{i}"] for i, (_, b) in enumerate(PLANES) if b != 3]
            return torch.stack([t.diff(dim=d).square().mean() for t in still for d in (1, 2)]).mean()
        if name == "time_l1" and kind == "hexplane":
            return torch.stack([(t - 1).abs().mean() for t in moving]).mean()
        raise ValueError(f"regularisers.{name}: a deformation of kind {kind} has nothing of the sort")

    # ---- control points ---------------------------------------------------------------------------------------------
    def poses(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Shift [K, 3] and quaternion [K, 4] of every control point at a time."""
        pose = between(self.params["poses"], time, self.settings.loop, self.settings.smooth)
        pose = pose * self.scaled_time(time)
        return pose[:, :3], from_vector(pose[:, 3:])

    def skin(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Control points [N, k] that move each point, and their weights [N, k], which sum to 1."""
        p, k = self.params, min(self.settings.nearest, len(self.params["anchors"]))
        distance = torch.cdist(points, p["anchors"])
        near, index = distance.topk(k, dim=1, largest=False)
        return index, (-0.5 * (near / taken(p["reach"].exp(), index)).square()).softmax(1)

    def _as_one(self, points: Tensor, moved: Motion, time: Tensor) -> Motion:
        """What the control points move, turned about their middle, shifted, and as large as all of it is. Of two knots
        the shorter way is taken, so that a full turn is a way of small ones."""
        s, place = self.settings, self.params["place"]
        poses, share = beside(self.params["whole"], time, s.loop, s.smooth)
        turns, ways = poses.split([4, 3], -1)
        turns = torch.where((turns * turns[1]).sum(-1, keepdim=True) < 0, -turns, turns)
        turn, centre = torch.nn.functional.normalize(share @ turns, dim=0), self.params["anchors"].detach().mean(0)
        gone = place[3].exp() * (points + moved.shift - centre) @ matrix(turn).T + centre + share @ ways + place[:3]
        return Motion(gone - points, product(turn.expand_as(moved.turn), moved.turn), moved.grow + place[3])

    def go_on(self, reach: float) -> None:
        """Where all of it stands at knots farther than `reach` from time 0, either way: upright, turned on about +Y as
        on the way there, if that is half as fast as a full turn in all of time, and shifted no farther."""
        table, knots = self.params["whole"].detach(), len(self.params["whole"])
        last = knots if self.settings.loop else knots - 1  # steps in all of time
        known = min(max(int(reach * last + 1e-6), 1), last // 2)
        yaw = 2 * torch.atan2(table[:, 2], table[:, 0])
        for k in range(known + 1, last // 2 + 1):
            for here, way in ((k, -1), (last - k, 1))[: 1 if last == 2 * k else 2]:
                before = yaw[(here + way) % knots]
                step = before - yaw[(here + 2 * way) % knots]
                turned = torch.remainder(step + math.pi, 2 * math.pi) - math.pi
                yaw[here] = before + torch.where(turned.abs() > math.pi / last, turned, 0.0)
                half, none = yaw[here] / 2, torch.zeros_like(before)
                table[here, :4] = torch.stack([half.cos(), none, half.sin(), none])
                table[here, 4:] = table[(here + way) % knots, 4:]

    def keep_to_one_way(self) -> None:
        """What all of it and its points do beside the one way that most of it goes fades."""
        p = {name: self.params[name].detach() for name in ("whole", "poses")}
        kept = faded(p["whole"], p["poses"], self.settings.one_way, self.settings.loop)
        for mine, new in zip(p.values(), kept, strict=True):
            mine.copy_(new)

    def _blended(self, points: Tensor, time: Tensor, skin: tuple[Tensor, Tensor] | None) -> Motion:
        if skin is None:
            with torch.no_grad():
                skin = self.skin(points)
        index, weight = skin
        shift, turn = self.poses(time)
        anchors = self.params["anchors"].detach()
        rotated = torch.einsum("nkij,nkj->nki", taken(matrix(turn), index), points[:, None] - anchors[index])
        moved = (weight[..., None] * (rotated + anchors[index] + taken(shift, index))).sum(1)
        # Poses stay near one another inside a neighbourhood, so a normalised sum of quaternions is their mean.
        return Motion(moved - points, (weight[..., None] * taken(turn, index)).sum(1), torch.zeros_like(points))


def anchored(still: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Control points [K, 3] spread over the points [N, 3], each as far from those before it as can be, and the
    logarithm of the distance [K] to its nearest fellow: how far it reaches."""
    distance = (still - still.mean(0)).norm(dim=-1)
    chosen = [int(distance.argmax())]
    distance = torch.full_like(distance, math.inf)
    for _ in range(min(count, len(still)) - 1):
        distance = torch.minimum(distance, (still - still[chosen[-1]]).norm(dim=-1))
        chosen.append(int(distance.argmax()))
    anchors = still[chosen].detach().clone()
    apart = torch.cdist(anchors, anchors).fill_diagonal_(math.inf).amin(1)
    return anchors, apart.clamp(0.02, 1.0).log()


def _he(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator) * math.sqrt(2 / columns)


# ---- penalties of a motion ------------------------------------------------------------------------------------------
def spread_change(still: Tensor, moved: Tensor) -> Tensor:
    """Align Your Gaussians' regulariser: the Jensen-Shannon-like divergence of the two clouds' diagonal Gaussians,
    1/2 KL(N_0 || M) + 1/2 KL(N_t || M) with M's mean and variance their means; [N, 3] twice -> [].

    Per axis: -1/2 log 2 + 1/2 log(G0 + Gt) - 1/4 log G0 - 1/4 log Gt + 1/4 (m_t - m_0)^2 / (G0 + Gt).
    """
    m0, mt = still.mean(0), moved.mean(0)
    g0, gt = still.var(0, unbiased=False) + 1e-8, moved.var(0, unbiased=False) + 1e-8
    both = g0 + gt
    parts = 0.5 * (both / 2).log() - 0.25 * (g0.log() + gt.log()) + 0.25 * (mt - m0).square() / both
    return parts.sum()


def stretch(still: Tensor, moved: Tensor, turn: Tensor, neighbours: Tensor) -> Tensor:
    """As rigid as possible: edges to neighbours [N, k] turn with their point and keep their length; mean square."""
    before = taken(still, neighbours) - still[:, None]
    after = taken(moved, neighbours) - moved[:, None]
    return (after - torch.einsum("nij,nkj->nki", matrix(turn), before)).square().sum(-1).mean()


def blend(first: Tensor, second: Tensor, time: Tensor, begin: float, end: float) -> Tensor:
    """(1 - chi) first + chi second, chi rising from 0 to 1 across the overlap [begin, end] of two segments."""
    chi = ((time - begin) / (end - begin)).clamp(0, 1)
    return (1 - chi) * first + chi * second
