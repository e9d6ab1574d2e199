# SPDX-License-Identifier: Apache-2.0
"""Training of what knows the insides (`guidance.toybox.hollow`): hulls of the training split's objects, as runs make
them, beside the exact distances of their programs.

A hull is where an object's silhouettes from the recipe's cameras all say something is. Runs leave rough ones: blurred,
too thin or too fat, uneven, with dents wherever no picture asks for matter and bites where nobody looks. Kinds whose
exact hulls are hardly emptier than they are have no inside to know, and are not asked about. Hulls and batches are pure
functions of the plan and their index, so a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core import tensors
from dreamlab.core.cameras import OrbitSettings, sample_orbit
from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.core.streams import derive
from dreamlab.run.signals import catching
from dreamlab.toybox.draw import draw
from dreamlab.toybox.program import Program
from dreamlab.toybox.shapes import CATEGORIES, program
from dreamlab.toybox.split import held_out_instance
from dreamlab.toybox.training.moments import moments, remember
from dreamlab.toybox.training.rates import falling
from dreamlab.toybox.training.trainer import LOG, STATE, Rhythm, opened
from guidance.toybox.hollow import FILE, REACH, Hollow, inside, packed, whole

CORNERS, HALF = 64, 0.96  # of the grid that a hull is on
CELL = 2 * HALF / (CORNERS - 1)
LOW = torch.full((3,), -HALF)
SEEN, LOOKS, PIXELS = OrbitSettings(), 20, 96  # a recipe's cameras, so many of them, and their pictures
LUMPS = 9  # corners a side of what noise is smooth between
THIN = 0.03  # metres: only what is emptier than this is hollow
NEAR, CLOSE = 0.07, 3.0  # metres from the true surface within which points are asked for so much oftener
POOL = "hulls"


@dataclass(frozen=True)
class HollowPlan:
    total: int = 24_000_000  # points looked at; the rate falls linearly to zero over the last two thirds
    batch: int = 4_096
    rate: float = 4e-3
    warmup: int = 400_000
    instances: int = 40  # of a kind
    copies: int = 3  # of a hull, each rough in its own way
    points: int = 1_500  # of a copy
    tried: int = 4  # instances that say how hollow a kind is
    hollow: float = 0.05  # empty volume of an exact hull, over the solid's, from which a kind is learnt
    seed: int = 0

    def rate_at(self, seen: int) -> float:
        return falling(self, seen)


@dataclass(frozen=True)
class Points:
    """What is told of points of rough hulls, and how far the true surface is."""

    told: Tensor  # [N, features] fp16
    away: Tensor  # [N] metres, fp16
    kind: Tensor  # [N] int16


@lru_cache(maxsize=1)
def corners() -> Tensor:
    """[CORNERS^3, 3]"""
    line = torch.arange(CORNERS) * CELL - HALF
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)


def hull(solid: Program, generator: torch.Generator) -> Tensor:
    """[CORNERS] * 3 the least cover of any of LOOKS pictures: above a half inside the exact visual hull."""
    cameras = sample_orbit(SEEN, LOOKS, generator)
    alpha = draw(solid, cameras, PIXELS).alpha[0, ..., 0]
    to_eye, focal = torch.linalg.inv(cameras.camera_to_world), cameras.focal_px(PIXELS) / (PIXELS / 2)
    index = (corners().norm(dim=1) < HALF).nonzero()[:, 0]
    least = torch.ones(len(index))
    for pose, scale, picture in zip(to_eye, focal, alpha, strict=True):
        seen = corners()[index] @ pose[:3, :3].T + pose[:3, 3]
        place = scale * seen[:, :2] * seen.new_tensor([1.0, -1.0]) / -seen[:, 2:]
        cover = F.grid_sample(picture[None, None], place[None, None], align_corners=False)[0, 0, 0]
        least = torch.minimum(least, cover)
        index, least = index[least > 0.02], least[least > 0.02]
    out = torch.zeros(CORNERS**3)
    out[index] = least
    return out.reshape((CORNERS,) * 3)


def rough(exact: Tensor, away: Tensor, generator: torch.Generator) -> Tensor:
    """A field, positive inside, of a hull as a run may leave it; `away` are the true distances on the grid."""
    width, offset, uneven, dented, dents, bitten = torch.rand(6, generator=generator).tolist()
    field = blurred(exact, 0.3 + 0.6 * width) - 0.5 + 0.3 * (offset - 0.5) + 0.12 * uneven * lumps(generator)
    if dented < 0.6:  # where nothing is, nobody holds a run to its hull
        deep = (lumps(generator) + 2 * dents - 1.2).clamp(min=0)
        field = field - 1.5 * deep * ((away - 0.02) / 0.08).clamp(0, 1)
    if bitten < 0.5:
        field = field - 2 * (lumps(generator) - 1.6).clamp(min=0)
    return whole(field)


def lumps(generator: torch.Generator) -> Tensor:
    """Smooth noise on the grid, of a deviation of about a half."""
    coarse = torch.randn(1, 1, LUMPS, LUMPS, LUMPS, generator=generator)
    return F.interpolate(coarse, (CORNERS,) * 3, mode="trilinear", align_corners=True)[0, 0]


def blurred(field: Tensor, width: float) -> Tensor:
    """By a Gaussian of a deviation in cells."""
    bell = (-(torch.arange(-3.0, 4.0) ** 2) / (2 * width**2)).exp()
    bell = bell / bell.sum()
    out = field[None, None]
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], pad[axis] = len(bell), 3
        out = F.conv3d(out, bell.reshape(shape), padding=pad)
    return out[0, 0]


def learnt_instances(name: str, count: int) -> list[int]:
    seeds = range(10 * count + 100)
    return [seed for seed in seeds if not held_out_instance(name, seed)][:count]


def emptiness(name: str, plan: HollowPlan) -> float:
    """How much emptier than the solid the exact hulls of a kind are: volume more than THIN away from the solid, over
    the solid's."""
    empty = solid = 0.0
    for seed in learnt_instances(name, plan.tried):
        made = program(name, {}, seed)
        generator = torch.Generator().manual_seed(derive(plan.seed, "hull", name, seed) % 2**63)
        there = (hull(made, generator).flatten() > 0.5).nonzero()[:, 0]
        away = made.sdf(corners()[there][None])[0][0]
        empty, solid = empty + float((away > THIN).sum()), solid + float((away < 0).sum())
    return empty / max(solid, 1.0)


def points_of(name: str, kind: int, plan: HollowPlan) -> Points:
    """Of all rough hulls of a kind's instances."""
    parts: list[Points] = []
    for seed in learnt_instances(name, plan.instances):
        made = program(name, {}, seed)
        generator = torch.Generator().manual_seed(derive(plan.seed, "hull", name, seed) % 2**63)
        exact, away = hull(made, generator), made.sdf(corners()[None])[0].reshape((CORNERS,) * 3)
        for _ in range(plan.copies):
            there = inside(rough(exact, away, generator), LOW, CELL)
            if not len(there.index):
                continue
            true = away.flatten()[there.index]
            often = torch.where(true.abs() < NEAR, CLOSE, 1.0)
            some = torch.multinomial(often, min(plan.points, len(often)), generator=generator)
            which = torch.full((len(some),), kind, dtype=torch.int16)
            parts.append(Points(there.told[some].half(), true[some].half(), which))
    return joined(parts)


def joined(parts: list[Points]) -> Points:
    return Points(*(torch.cat([getattr(part, name) for part in parts]) for name in ("told", "away", "kind")))


class Lessons:
    """A network in training and its folder: plan.json, hulls/, state.safetensors, log.jsonl, hollow.safetensors."""

    def __init__(self, folder: Path, plan: HollowPlan) -> None:
        self.folder, self.plan, self.seen = folder, plan, 0
        self.emptiness = self._measured()
        kinds = tuple(name for name, empty in self.emptiness.items() if empty >= plan.hollow)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(plan.seed, "hollow weights") % 2**63)
            self.net = Hollow(kinds)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), plan.rate, betas=(0.9, 0.99), weight_decay=0.01)

    def _measured(self) -> dict[str, float]:
        path = self.folder / POOL / "emptiness.json"
        if not path.is_file():
            found = {name: emptiness(name, self.plan) for name in sorted(CATEGORIES)}
            with disk_errors("writing how hollow things are", self.folder):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, json.dumps(found, indent=1).encode())
        read: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return read

    def points(self, stopping: Callable[[], bool]) -> Points | None:
        """All of the plan's, those that are missing made now; None if it was stopped meanwhile."""
        parts = []
        for kind, name in enumerate(self.net.kinds):
            if stopping():
                return None
            path = self.folder / POOL / f"{name.replace(' ', '-')}.safetensors"
            if not path.is_file():
                with disk_errors("writing hulls", self.folder):
                    write_atomic(path, tensors.packed(vars(points_of(name, kind, self.plan)), "points", {}))
            parts.append(Points(**tensors.unpacked(path, "points")[1]))
        return joined(parts)

    def train_step(self, points: Points) -> float:
        generator = torch.Generator().manual_seed(derive(self.plan.seed, "points", self.seen) % 2**63)
        rows = torch.randint(len(points.away), (self.plan.batch,), generator=generator)
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate_at(self.seen)
        loss = loss_of(self.net, points, rows)
        self.net.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.seen += self.plan.batch
        return loss.item()

    def save(self) -> None:
        held = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        held |= moments(self.net, [self.optimiser])
        facts = {"points": self.seen, "seed": self.plan.seed}
        with disk_errors("saving the training state", self.folder):
            write_atomic(self.folder / STATE, tensors.packed(held, "counters", {"seen": self.seen}))
            write_atomic(self.folder / FILE, packed(self.net, facts))

    def restore(self) -> None:
        counters, held = tensors.unpacked(self.folder / STATE, "counters")
        self.seen = counters["seen"]
        self.net.load_state_dict({name.removeprefix("net."): held[name] for name in held if name.startswith("net.")})
        remember(self.net, [self.optimiser], held)

    def log(self, **line: float) -> None:
        rounded = {"points": self.seen} | {name: round(value, 6) for name, value in line.items()}
        with disk_errors("writing the log", self.folder), (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")

    def train(self, minutes: float, stopping: Callable[[], bool]) -> None:
        """Until the plan's total, the time, or a signal; ends with a saved state."""
        end, rhythm, losses = time.monotonic() + 60 * minutes, Rhythm(), []
        points = self.points(lambda: stopping() or time.monotonic() > end)
        if points is None:
            return
        while self.seen < self.plan.total and time.monotonic() < end and not stopping():
            losses.append(self.train_step(points))
            if rhythm.now("log"):
                self.log(rate=self.plan.rate_at(self.seen), loss=sum(losses) / len(losses))
                losses = []
            if rhythm.now("save"):
                self.save()
        self.save()


def loss_of(net: Hollow, points: Points, rows: Tensor) -> Tensor:
    """Pseudo-Huber of the distances in metres, as far as they are told apart; nearly the median of what may be."""
    true = points.away[rows].float().clamp(-REACH, REACH)
    error = net(points.told[rows].float(), points.kind[rows].long()) - true
    return (torch.where(true.abs() < NEAR, 2.0, 1.0) * ((error.square() + 1e-4).sqrt() - 0.01)).mean()


def begin(folder: Path, *, minutes: float, resume: bool, changes: Mapping[str, int | float]) -> int:
    """Start or go on with a run; the exit code."""
    plan = opened(HollowPlan, "hollow", folder, resume, changes)
    run = Lessons(folder, plan)
    if resume:
        run.restore()
    with catching() as stop:
        run.train(minutes, lambda: stop.requested)
    return stop.exit_code if stop.requested else 0
