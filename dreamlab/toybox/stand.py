# SPDX-License-Identifier: Apache-2.0
"""Where things go in, on, under or beside another one, by exact distances: nothing is in anything, what stands on
something touches it, what stands side by side has one floor.

A `Toy` is an object with what its distance says of it: points of its surface, its extent, and the cells of its grid
that would hold rain. What rests on something is let down until a distance is zero (conservative advancement).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.toybox.program import OBJECT_RADIUS, Program
from dreamlab.toybox.scene import join, transformed

SIZES = (0.55, 0.48, 0.42, 0.36, 0.3, 0.25, 0.2)  # of what stands in or under something
ON = (*SIZES[:5], 0.8, 1.05, 1.3)  # on something; the last span what is hollow below
IN = (0.8, 0.7, 0.62, *SIZES, 0.15)
GAP, AIR = 0.06, 0.25  # between neighbours; between a thing and what it is above
CELLS = 81  # of a body's grid along each axis
HAIR = 1e-3  # a distance that is a touch
LEVEL = 0.2  # how far what stands on uneven ground, or over an opening, may sink into it
SUNK = 0.35  # of the height of what is in something, below the brim
DEEP, WIDE = 0.15, 0.01  # metres, cubic metres: what holds less is not open
FRONT = ((0.0, 0.0), (0.0, 0.1), (0.0, 0.2), (0.0, 0.35), (0.3, 0.1))  # before the back of a chair, beside a mast
AROUND = ((0.0, 0.0), (0.0, 0.2), (0.0, 0.35), (0.3, 0.1), (0.4, 0.0), (-0.4, 0.0), (0.0, 0.5), (0.0, -0.35))
SIDES = {"left of": (0, -1), "right of": (0, 1), "in front of": (2, 1), "behind": (2, -1)}  # axis, sign

Vec3 = tuple[float, float, float]
Box = tuple[Tensor, Tensor]  # lowest and highest corner


@dataclass(frozen=True)
class Spot:
    """Where a body stands beside another, about that one's origin."""

    scale: float
    shift: Vec3


class Toy:
    """One object about its own origin."""

    def __init__(self, program: Program) -> None:
        self.program = program
        centre, self.radius = program.bound[0, :3], float(program.bound[0, 3])
        line = torch.linspace(-self.radius, self.radius, CELLS)
        self.cell = float(line[1] - line[0])
        self.grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1) + centre
        self.field = self.distance(self.grid.reshape(-1, 3)).reshape(CELLS, CELLS, CELLS)
        near = self.grid[self.field.abs() < self.cell]
        for _ in range(3):  # onto the surface
            near = near - self.distance(near)[:, None] * self.outwards(near)
        self.low, self.high = near.amin(0), near.amax(0)
        self.points = near[:: max(1, len(near) // 3000)]

    def distance(self, points: Tensor) -> Tensor:  # [N, 3] -> [N]
        return self.program.sdf(points[None])[0][0]

    def outwards(self, points: Tensor) -> Tensor:  # [N, 3] -> [N, 3]
        steps = torch.cat([torch.eye(3), -torch.eye(3)]) * 1e-3
        ahead, behind = self.distance((points + steps[:, None]).reshape(-1, 3)).reshape(2, 3, -1)
        return F.normalize((ahead - behind).T, dim=1)

    @cached_property
    def solid(self) -> Tensor:  # [X, Y, Z] bool: no way through a wall, however thin
        return self.field < 0.5 * self.cell

    @cached_property
    def pool(self) -> Tensor:  # [X, Y, Z] bool
        """Cells under the open sky from which nothing can flow away, neither sideways nor down."""
        air = ~self.solid
        away = F.pad(torch.zeros_like(air)[1:-1, 1:, 1:-1], (1, 1, 1, 0, 1, 1), value=True) & air
        before = -1
        while (count := int(away.sum())) != before:
            before, wide = count, F.pad(away, (1, 1, 1, 0, 1, 1))
            beside = wide[2:, 1:, 1:-1] | wide[:-2, 1:, 1:-1] | wide[1:-1, 1:, 2:] | wide[1:-1, 1:, :-2]
            away = away | (air & (beside | wide[1:-1, :-1, 1:-1]))
        sky = ~self.solid.flip(1).cummax(1).values.flip(1)
        return air & ~away & sky

    @cached_property
    def tops(self) -> Tensor:  # [X, Z]
        """How high one could stand in each column, below the floor where there is nothing; pools are full."""
        filled = self.solid | self.pool
        return torch.where(filled, self.grid[..., 1], self.low[1] - 1).amax(1)

    @cached_property
    def depth(self) -> float:
        return self.cell * float(self.pool.sum(1).max())

    @property
    def open(self) -> bool:
        """Whether something can be in it."""
        return self.depth > DEEP and float(self.pool.sum()) * self.cell**3 > WIDE

    @cached_property
    def basins(self) -> list[tuple[float, float]]:
        """The places of the pool with the most room about them."""
        room = torch.where(self.pool, self.field, -1.0).amax(1)
        found = []
        for _ in range(4):
            i, k = divmod(int(room.argmax()), CELLS)
            found.append((float(self.grid[i, 0, k, 0]), float(self.grid[i, 0, k, 2])))
            room[max(i - 6, 0) : i + 7, max(k - 6, 0) : k + 7] = -1.0
        return found

    def foot(self, at: Spot) -> float:
        return at.shift[1] + at.scale * float(self.low[1])

    def top(self, x: float, z: float) -> float:
        column = ((torch.tensor([x, z]) - self.grid[0, 0, 0, [0, 2]]) / self.cell).round().long()
        return float(self.tops[tuple(column.clamp(0, CELLS - 1).tolist())])


def clearance(first: Toy, at: Spot, second: Toy) -> float:
    """The way from either's surface to the other, less than 0 where one is in the other."""
    shift = torch.tensor(at.shift)
    there = second.distance(at.scale * first.points + shift).min()
    here = first.distance((second.points - shift) / at.scale).min()
    return min(float(there), at.scale * float(here))


def rest(first: Toy, scale: float, x: float, z: float, second: Toy) -> Spot:
    """Let down from above until it touches; to the floor where nothing is under it."""
    y = float(second.high[1] - scale * first.low[1]) + HAIR
    floor = float(second.low[1] - scale * first.low[1])
    for _ in range(100):
        way = clearance(first, Spot(scale, (x, y, z)), second)
        if way < HAIR or y <= floor:
            break
        y = max(y - 0.95 * way, floor)
    return Spot(scale, (x, y, z))


def row(bodies: Sequence[Toy]) -> list[tuple[float, float]]:
    """Where things of one size stand side by side, (x, z) about their middle: up to three in a row, more in two."""
    if len(bodies) > 3:
        half = (len(bodies) + 1) // 2
        front, back = row(bodies[:half]), row(bodies[half:])
        way = max(float(b.high[2]) for b in bodies[half:]) - min(float(b.low[2]) for b in bodies[:half]) + GAP
        return [(x, z + way / 2) for x, z in front] + [(x, z - way / 2) for x, z in back]
    edges = [0.0]
    for body in bodies:
        edges.append(edges[-1] + float(body.high[0] - body.low[0]) + GAP)
    middle = (edges[-1] - GAP) / 2
    return [(left - middle - float(body.low[0]), 0.0) for left, body in zip(edges, bodies, strict=False)]


def standing(bodies: Sequence[Toy], scale: float, x: float, z: float, floor: float) -> list[Spot]:
    """In a row about (x, z), all on one floor."""
    pairs = zip(bodies, row(bodies), strict=True)
    return [Spot(scale, (x + scale * dx, floor - scale * float(b.low[1]), z + scale * dz)) for b, (dx, dz) in pairs]


def _resting(bodies: Sequence[Toy], scale: float, x: float, z: float, ground: Toy) -> list[Spot]:
    """In a row about (x, z), each on what is there."""
    pairs = zip(bodies, row(bodies), strict=True)
    return [rest(body, scale, x + scale * dx, z + scale * dz, ground) for body, (dx, dz) in pairs]


def on(bodies: Sequence[Toy], ground: Toy) -> list[Spot]:
    """Side by side on it, with ground under the middle of each; else where they come to rest on its upper half."""
    found: list[Spot] = []
    resting: list[Spot] = []
    half = float(ground.low[1] + ground.high[1]) / 2
    for scale in ON:
        for x, z in (*(ground.basins[:1] if ground.open else ()), *FRONT):
            found = _resting(bodies, scale, x, z, ground)
            pairs = list(zip(bodies, found, strict=True))
            if all(_stands(body, at, ground, len(bodies) > 1) for body, at in pairs):
                return found
            if not resting and all(body.foot(at) > half for body, at in pairs):
                resting = found
    return resting or found


def _stands(body: Toy, at: Spot, ground: Toy, broad: bool) -> bool:
    """Whether its foot is on the ground under its middle; `broad`: under the middle half of it."""
    foot = body.foot(at)
    return all(abs(foot - ground.top(x, z)) < LEVEL for x, z in _corners(body, at, 0.25 if broad else 0.0))


def _corners(body: Toy, at: Spot, part: float) -> list[tuple[float, float]]:
    wide, deep = (part * at.scale * float(body.high[i] - body.low[i]) for i in (0, 2))
    return [(at.shift[0] + dx, at.shift[2] + dz) for dx in (-wide, wide) for dz in (-deep, deep)]


def inside(bodies: Sequence[Toy], ground: Toy) -> list[Spot]:
    """Side by side in what is open, as large as they still sink in it by half its depth or a part of their height; none
    where there is no room."""
    if not ground.open:
        return []
    brim = float(ground.grid[..., 1][ground.pool].max())
    tall = min(float(body.high[1] - body.low[1]) for body in bodies)
    for x, z in ground.basins:
        for scale in IN:
            found = _resting(bodies, scale, x, z, ground)
            feet = [body.foot(at) for body, at in zip(bodies, found, strict=True)]
            if max(feet) < brim - min(ground.depth / 2, SUNK * scale * tall):
                return found
    return []


def under(bodies: Sequence[Toy], ground: Toy) -> list[Spot]:
    """Side by side on its floor, with something of it above each, as large as there is room; none where there is
    none."""
    best: list[Spot] = []
    for x, z in AROUND:
        for scale in SIZES:
            if best and scale - 0.1 <= best[0].scale:  # the first place is the middle
                break
            found = standing(bodies, scale, x, z, float(ground.low[1]))
            pairs = list(zip(bodies, found, strict=True))
            if all(_covered(b, at, ground) and clearance(b, at, ground) > HAIR for b, at in pairs):
                best = found
                break
    return best


def _covered(body: Toy, at: Spot, ground: Toy) -> bool:
    """Whether there is ground above the middle half of it."""
    head = at.shift[1] + at.scale * float(body.high[1])
    return all(ground.top(x, z) > head for x, z in _corners(body, at, 0.25))


def beside(bodies: Sequence[Toy], relation: str, box: Box, middle: tuple[float, float], size: float = 1) -> list[Spot]:
    """In a row to one side of a box about a middle (x, z), on its floor.

    "left of" and "right of" are the viewer's, who sees both from the front (+Z): left is -X. "next to" is "right of".
    """
    (axis, sign), (low, high) = SIDES.get(relation, SIDES["right of"]), box
    places = standing(bodies, size, 0.0, 0.0, float(low[1]))
    near = [
        at.shift[axis] + size * float((body.low if sign > 0 else body.high)[axis])
        for body, at in zip(bodies, places, strict=True)
    ]
    edge = float(high[axis]) + GAP - min(near) if sign > 0 else float(low[axis]) - GAP - max(near)
    x, z = (edge, middle[1]) if axis == 0 else (middle[0], edge)
    return standing(bodies, size, x, z, float(low[1]))


def spots(bodies: Sequence[Toy], relation: str, ground: Toy) -> list[Spot]:
    """Where bodies are that stand in one relation to another. What has no room under something carries it; there is
    none for what cannot be in something."""
    if relation == "on":
        return on(bodies, ground)
    if relation == "above":
        return standing(bodies, SIZES[0], 0.0, 0.0, float(ground.high[1]) + AIR)
    if relation == "under":
        return under(bodies, ground) or _carrying(bodies, ground)
    if relation == "in":
        return inside(bodies, ground)
    return beside(bodies, relation, (ground.low, ground.high), (0.0, 0.0))


def _carrying(bodies: Sequence[Toy], ground: Toy) -> list[Spot]:
    """Where they are to what stands on them."""
    shifts = [torch.tensor(spot.shift) for spot in standing(bodies, 1.0, 0.0, 0.0, 0.0)]
    whole = reduce(join, [transformed(body.program, shift=at) for body, at in zip(bodies, shifts, strict=True)])
    at = on([ground], Toy(whole))[0]
    there = [((shift - torch.tensor(at.shift)) / at.scale).tolist() for shift in shifts]
    return [Spot(1 / at.scale, (x, y, z)) for x, y, z in there]


def arrange(first: Program, relation: str, second: Program) -> Program:
    """One scene of two objects in the ball of radius OBJECT_RADIUS: `first` in a relation to `second`."""
    bodies, ground = [Toy(first)], Toy(second)
    at = (spots(bodies, relation, ground) or spots(bodies, "next to", ground))[0]
    scene = join(transformed(first, shift=torch.tensor(at.shift), scale=at.scale), second)
    scale = OBJECT_RADIUS / float(scene.bound[0, 3])
    return transformed(scene, shift=-scale * scene.bound[0, :3], scale=scale)
