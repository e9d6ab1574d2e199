# SPDX-License-Identifier: Apache-2.0
"""Moving Gaussians: a canonical set and a deformation over time (Align Your Gaussians, arXiv:2312.13763;
DreamGaussian4D, arXiv:2312.17142; SC-GS, arXiv:2312.14937).

Longer motions are made of segments that overlap (Align Your Gaussians, section 3.4): each has a deformation of its own,
and across an overlap the motion goes from one to the next, (1 - chi) D1 + chi D2. A stage trains one segment, or all.
While one is trained, those after it do not exist: the motion ends with it (autoregressive extension).
With `deform.loop` the segments stand in a ring: the last overlaps the first before time 1, which is time 0 again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import SceneCard
from dreamlab.core.rotation import product
from dreamlab.core.schedules import Progress
from dreamlab.core.settings import setting
from dreamlab.core.types import Frames, Offer, ParamGroup, Rows, Splats, Training
from renderers.gaussian.carried import carriers, carrying
from renderers.gaussian.deform import Deformation, DeformSettings, Motion, anchored, blend, spread_change, stretch
from renderers.gaussians import Gaussians, GaussianSettings

NEIGHBOURS = 6
ROUGHNESS = ("plane_tv", "time_smooth", "time_l1")
STALE = 100  # steps between searches for neighbours


@dataclass(frozen=True)
class MovingSettings(GaussianSettings):
    deform: DeformSettings = field(default_factory=DeformSettings)
    frozen: bool = setting(False, help="only the motion is trained (Align Your Gaussians' second stage)")
    segments: int = setting(1, low=1, high=16, help="deformations one after another in [0, 1]")
    overlap: float = setting(0.25, above=0, high=0.5, help="part of a segment that it shares with the next")
    segment: int | None = setting(None, low=0, high=15, help="the one that is trained; missing: all")


class Gaussians4D(Gaussians):
    """Gaussians that a deformation moves over time: a network, a hexplane, or control points with skinning."""

    kind: ClassVar[str] = "gaussians4d"
    paper: ClassVar[str] = "Ling et al. 2023, arXiv:2312.13763; Huang et al. 2023, arXiv:2312.14937"
    penalties: ClassVar[tuple[str, ...]] = (*Gaussians.penalties, "drift", "rigidity", "continuity", *ROUGHNESS)
    Settings: ClassVar[type] = MovingSettings
    settings: MovingSettings

    @classmethod
    def card(cls, settings: GaussianSettings) -> SceneCard:
        assert isinstance(settings, MovingSettings)
        s, complaint = settings, ""
        if s.segment is not None and s.segment >= s.segments:
            complaint = f"segment: {s.segment}: counted from 0, of {s.segments}"
        elif s.deform.loop and s.segments > 1 and s.deform.power:
            complaint = "deform.power: 0 where several segments loop: none of them begins still"
        plain = super().card(settings)
        lacking = {name: "deform.kind: hexplane" for name in ROUGHNESS if s.deform.kind != "hexplane"}
        if s.deform.kind == "control":
            del lacking["time_smooth"]  # of the points' poses
        return replace(plain, moves=True, lacking=lacking, complaint=plain.complaint or complaint)

    def __init__(self, settings: MovingSettings, generator: torch.Generator) -> None:
        super().__init__(settings, generator)
        still = self.params["means"].detach()
        self.ring = settings.deform.loop and settings.segments > 1
        # Only the first segment begins still, and a part of a ring does not close by itself.
        first = replace(settings.deform, loop=settings.deform.loop and not self.ring)
        kinds = [first] + [replace(first, power=0.0)] * (settings.segments - 1)
        self.motions = [Deformation(kind, still, generator) for kind in kinds]
        self.neighbours: Tensor | None = None  # [N, k] of the canonical means; searched when a penalty asks

    def to(self, device: torch.device | str) -> Self:
        super().to(device)
        for motion in self.motions:
            motion.load({name: value.to(device) for name, value in motion.params.items()})
        return self

    def groups(self) -> Mapping[str, ParamGroup]:
        chosen = self.settings.segment
        still = {} if self.settings.frozen else super().groups()
        moving = {
            f"deform{j}.{name}": group
            for j, motion in enumerate(self.motions)
            if chosen is None or chosen == j
            for name, group in motion.groups().items()
        }
        return {**still, **moving}

    # ---- the motion -------------------------------------------------------------------------------------------------
    def spans(self) -> list[tuple[float, float]]:
        """Begin and end of every segment in [0, 1]; in a ring the first begins before 0, where the last ends."""
        s = self.settings
        length = 1 / (s.segments * (1 - s.overlap) + (0 if self.ring else s.overlap))
        early = s.overlap * length if self.ring else 0.0
        begins = [j * length * (1 - s.overlap) - early for j in range(s.segments)]
        return [(begin, begin + length) for begin in begins]

    def motion(self, time: Tensor, means: Tensor | None = None) -> tuple[Motion, Tensor]:
        """What moves the Gaussians, or those at other `means`, at `time` [], and how far an earlier segment is from the
        blend [] (continuity)."""
        means, spans = self.params["means"] if means is None else means, self.spans()
        time = torch.remainder(time, 1.0) if self.ring else time
        chosen = self.settings.segment
        built = len(spans) if chosen is None else chosen + 1  # what comes after the one in training is not there yet
        order = [(motion, *span) for motion, span in zip(self.motions, spans, strict=True)][:built]
        if self.ring:
            order.append((self.motions[0], spans[0][0] + 1, spans[0][1] + 1))
        found = order[0][0].at(means, (time - order[0][1]) / (order[0][2] - order[0][1]))
        apart = means.new_zeros(())
        for (_, _, end), (motion, begin, last) in itertools.pairwise(order):
            then = motion.at(means, (time - begin) / (last - begin))
            end = max(end, begin + 1e-6)  # in a ring that is not whole yet the first follows without an overlap
            both = (blend(getattr(found, n), getattr(then, n), time, begin, end) for n in ("shift", "turn", "grow"))
            mixed = Motion(*both)
            inside = ((time > begin) & (time < end)).to(means)
            apart = apart + inside * (found.shift - mixed.shift).square().sum(-1).mean()
            found = mixed
        return found, apart

    def posed(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor, Motion, Tensor]:
        """Means, quaternions and log scales at a time, the motion, and the gap between segments."""
        p = self.params
        motion, apart = self.motion(time)
        quats = product(motion.turn, torch.nn.functional.normalize(p["quats"], dim=-1))
        return p["means"] + motion.shift, quats, p["log_scales"] + motion.grow, motion, apart

    def render(self, cameras: Cameras, size: int, background: Tensor, training: Training | None = None) -> Frames:
        self.begin(training)
        times = cameras.fovy_deg.new_zeros(len(cameras)) if cameras.time is None else cameras.time
        parts, moved, turns, apart = [], [], [], []
        for i in range(len(cameras)):
            means, quats, log_scales, motion, gap = self.posed(times[i])
            view = slice(i, i + 1)
            shown = self.splat(means, quats, cameras[view], size, background[view], training, log_scales)
            parts.append(Frames(shown.rgb, shown.alpha, shown.depth, background[view], shown.normal, shown.visible))
            moved.append(means)
            turns.append(motion.turn)
            apart.append(gap)
        extra = {} if training is None else {
            "moved": torch.stack(moved), "turns": torch.stack(turns), "apart": torch.stack(apart)
        }  # fmt: skip
        return replace(Frames.cat(parts), extra=extra)

    def begin(self, training: Training | None) -> None:
        super().begin(training)
        if training is not None and training.progress.step % STALE == 0:
            self.neighbours = None

    def penalty(self, name: str, frames: Frames) -> Tensor:
        """drift: the clouds' divergence from the canonical one; rigidity: as rigid as possible; continuity: segments
        agree where they overlap. Means over the views' times."""
        means = self.params["means"]
        if name in ROUGHNESS:
            return torch.stack([motion.roughness(name) for motion in self.motions]).mean()
        if name == "continuity":
            return frames.mean(frames.extra["apart"])
        if name == "drift":
            still = means.detach()
            return frames.mean(torch.stack([spread_change(still, moved) for moved in frames.extra["moved"]]))
        if name == "rigidity":
            if self.neighbours is None:
                self.neighbours = nearest(means.detach(), NEIGHBOURS)
            pairs = zip(frames.extra["moved"], frames.extra["turns"], strict=True)
            return frames.mean(torch.stack([stretch(means, moved, turn, self.neighbours) for moved, turn in pairs]))
        return super().penalty(name, frames)

    def adapt(self, progress: Progress, frames: Frames, healthy: Tensor) -> Rows | None:
        if self.settings.frozen:
            return None
        rows = super().adapt(progress, frames, healthy)
        if rows is not None:
            self.neighbours = None
        return rows

    # ---- as an asset that moves -------------------------------------------------------------------------------------
    @property
    def loops(self) -> bool:
        return self.settings.deform.loop

    def follow(self, points: Tensor, times: Tensor) -> Tensor:
        """[T, V, 3] on the host: the surface's points go with the Gaussians that make it."""
        device, opacity = self.params["means"].device, self.params["logit_opacity"].detach().sigmoid()

        def standing(time: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            p = {name: self.params[name][rows] for name in ("means", "quats", "log_scales")}
            motion, _ = self.motion(time.to(p["means"]), p["means"])
            quats = product(motion.turn, torch.nn.functional.normalize(p["quats"], dim=-1))
            return p["means"] + motion.shift, quats, (p["log_scales"] + motion.grow).exp()

        with torch.no_grad():
            some = carrying(opacity)
            carried = carriers(points.to(device), *standing(torch.zeros(()), some), opacity[some])
            rows, index = torch.unique(carried.index, return_inverse=True)
            carried = replace(carried, index=index)
            return torch.stack([carried.at(*standing(time, some[rows])).cpu() for time in times])

    def joints(self) -> Tensor | None:
        """Where the control points of the first motion stand at time 0."""
        motion = self.motions[0]
        if motion.settings.kind != "control":
            return None
        with torch.no_grad():
            shift, _ = motion.poses(self.params["means"].new_zeros(()))
            return (motion.params["anchors"] + shift).cpu()

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        for j, motion in enumerate(self.motions):
            state |= {f"deform{j}.{name}": value.detach() for name, value in motion.params.items()}
        return state | ({} if self.neighbours is None else {"neighbours": self.neighbours})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Also of Gaussians that do not move yet, or of fewer segments: what is missing starts without motion."""
        super().load_state_dict(state)
        means = self.params["means"].detach()
        self.neighbours = state["neighbours"].to(means.device).clone() if "neighbours" in state else None
        for j, motion in enumerate(self.motions):
            own = {name: state.get(f"deform{j}.{name}", value) for name, value in motion.params.items()}
            if f"deform{j}.anchors" not in state and "anchors" in own:
                own["anchors"], own["reach"] = anchored(means, motion.settings.points)
                own["poses"] = means.new_zeros(motion.settings.moments, len(own["anchors"]), 6)
            motion.load({name: value.to(means.device) for name, value in own.items()})

    def splats(self, time: float = 0.0) -> Splats:
        """As they are drawn at a time."""
        with torch.no_grad():
            means, quats, log_scales, _, _ = self.posed(self.params["means"].new_tensor(time))
        return self.activated(means, quats, log_scales)

    def offer(self, resolution: int) -> Offer:
        """The surface at time 0."""
        if self.settings.surface != "density":
            return super().offer(resolution)
        with torch.no_grad():
            means, quats, log_scales, _, _ = self.posed(self.params["means"].new_zeros(()))
        return self.density(means, quats, log_scales, resolution, ())


def nearest(points: Tensor, count: int) -> Tensor:
    """[N, count] rows of the nearest other points."""
    from scipy.spatial import cKDTree

    where = points.cpu().double().numpy()
    _, index = cKDTree(where).query(where, k=min(count + 1, len(where)))
    return torch.from_numpy(index[:, 1:]).long().to(points.device)
