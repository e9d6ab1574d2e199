# SPDX-License-Identifier: Apache-2.0
"""Where the objects of a prompt stand, by what the words say and by the shapes that the world gives to their names.

What one number asks for, and what is on, in, under or above the same thing, stands in one row. Whoever is beside
something is beside all of its row; where others stand there already, beyond them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dreamlab.toybox.layout import Thing
from dreamlab.toybox.program import OBJECT_RADIUS, Program
from dreamlab.toybox.scene import transformed
from dreamlab.toybox.shapes import program
from dreamlab.toybox.stand import GAP, SIDES, Box, Spot, Toy, beside, inside, spots, standing, under

UPRIGHT = ("on", "in", "under", "above")
OPEN = ("mug", "boot")  # what something can be in


@dataclass(frozen=True)
class Whereabouts:
    """Where an object of radius OBJECT_RADIUS about its own origin stands."""

    position: tuple[float, float, float]
    scale: float


@dataclass(frozen=True)
class Line:
    """Objects side by side, from the left, and what they are to another one."""

    members: tuple[int, ...]
    relation: str
    to: int | None

    @property
    def size(self) -> float:
        """Of each on the floor: many are smaller than one beside them."""
        return len(self.members) ** -0.5


@lru_cache(maxsize=128)
def body(category: str) -> Toy:
    return Toy(program(category))


@lru_cache(maxsize=256)
def places(objects: tuple[Thing, ...]) -> tuple[Whereabouts, ...]:
    """Each object placed by its relation, the whole in a ball of radius OBJECT_RADIUS about the origin."""
    stage, waiting = _Stage(objects), rows(objects)
    while waiting:
        free = [row for row in waiting if row.to is None or row.to in stage.stand]
        row = free[0] if free else waiting[0]  # a circle of relations
        waiting.remove(row)
        stage.put(row)
    points = torch.cat([stage.points(i) for i in range(len(objects))])
    centre = (points.amin(0) + points.amax(0)) / 2
    fit = OBJECT_RADIUS / float((points - centre).norm(dim=1).max())
    return tuple(_fitted(stage.stand[i], centre.tolist(), fit) for i in range(len(objects)))


def rows(objects: Sequence[Thing]) -> list[Line]:
    """The rows of some objects in the order of their first words."""
    found: dict[tuple[str, int | None], list[int]] = {}
    for i in range(len(objects)):
        relation, to, left = _role(objects, i)
        shared = relation in UPRIGHT and to is not None
        members = found.setdefault((relation, to) if shared else ("", _first(objects, i)), [])
        members.insert(0 if left else len(members), i)
    return [Line(tuple(members), *_role(objects, members[0])[:2]) for members in found.values()]


def _first(objects: Sequence[Thing], i: int) -> int:
    like = objects[i].like
    return i if like is None else like


def _role(objects: Sequence[Thing], i: int) -> tuple[str, int | None, bool]:
    """What an object is to which; whether it goes to the left of a row. Beside what stands on something is on it too:
    "a duck on a table and next to it a cat"."""
    one, left = objects[_first(objects, i)], False
    for _ in objects:
        ground = None if one.to is None else objects[_first(objects, one.to)]
        sideways = one.relation not in UPRIGHT and SIDES.get(one.relation, (0, 1))[0] == 0
        if ground is None or not sideways or ground.relation not in UPRIGHT or ground.to is None:
            break
        one, left = ground, left or one.relation == "left of"
    return one.relation, one.to, left


def remarks(objects: tuple[Thing, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A line for what has no room under something and carries it; one for what cannot be in what it should."""
    carrying, refused = [], []
    for row in rows(objects):
        if row.to is None or row.relation not in ("in", "under"):
            continue
        first, ground = (objects[i].text for i in (row.members[0], row.to))
        bodies = [body(objects[i].category) for i in row.members]
        if row.relation == "under" and not under(bodies, body(objects[row.to].category)):
            carrying.append(f"{ground!r} stands on {first!r}: there is no room under it")
        elif row.relation == "in" and not inside(bodies, body(objects[row.to].category)):
            why = "there is no room" if objects[row.to].category in OPEN else f"open are: {', '.join(OPEN)}"
            refused.append(f"'in': {first!r} stands beside {ground!r}, in which it cannot be; {why}")
    return tuple(carrying), tuple(refused)


class _Stage:
    """Where things stand so far, in the frame of the first."""

    def __init__(self, objects: Sequence[Thing]) -> None:
        self.objects, self.bodies = objects, [body(one.category) for one in objects]
        self.stand: dict[int, Spot] = {}
        self.rows: dict[int, Line] = {}

    def put(self, row: Line) -> None:
        bodies = [self.bodies[i] for i in row.members]
        ground = row.to if row.to in self.stand else max(self.stand, default=None)
        if ground is None:
            found = standing(bodies, row.size, 0.0, 0.0, 0.0)
        elif row.relation not in UPRIGHT or not (there := spots(bodies, row.relation, self.bodies[ground])):
            found = self._beside(row, bodies, ground)
        else:
            found = [_within(self.stand[ground], spot) for spot in there]
        self.stand |= dict(zip(row.members, found, strict=True))
        self.rows |= dict.fromkeys(row.members, row)

    def _beside(self, row: Line, bodies: Sequence[Toy], ground: int) -> list[Spot]:
        """Beside all of the row that the ground is in, on the floor, and beyond what is there."""
        for _ in self.objects:
            there = self.rows[ground]
            if there.relation not in UPRIGHT or there.to not in self.stand:
                break
            ground = there.to
        family = self.rows[ground].members
        scale = self.stand[ground].scale / self.rows[ground].size
        low, high = zip(*(self.box(self.bodies[i], self.stand[i]) for i in family), strict=True)
        whole = torch.stack(low).amin(0) / scale, torch.stack(high).amax(0) / scale
        x, _, z = (sum(self.stand[i].shift[k] for i in family) / len(family) / scale for k in range(3))
        found = [_scaled(spot, scale) for spot in beside(bodies, row.relation, whole, (x, z), row.size)]
        axis, sign = SIDES.get(row.relation, SIDES["right of"])
        for _ in self.stand:
            mine = [self.box(one, spot) for one, spot in zip(bodies, found, strict=True)]
            theirs = [self.box(self.bodies[i], spot) for i, spot in self.stand.items()]
            ways = [_way(a, b, axis, sign, GAP * scale) for a in mine for b in theirs if _overlap(a, b)]
            if not ways:
                break
            found = [_moved(spot, axis, sign * max(ways)) for spot in found]
        return found

    def box(self, one: Toy, at: Spot) -> tuple[Tensor, Tensor]:
        shift = torch.tensor(at.shift)
        return at.scale * one.low + shift, at.scale * one.high + shift

    def points(self, i: int) -> Tensor:
        at = self.stand[i]
        return at.scale * self.bodies[i].points + torch.tensor(at.shift)


def _overlap(a: Box, b: Box) -> bool:
    return bool(((a[1] > b[0]) & (b[1] > a[0])).all())


def _way(a: Box, b: Box, axis: int, sign: int, gap: float) -> float:
    """How far `a` must go along an axis to be beyond `b`."""
    return float(b[1][axis] - a[0][axis] if sign > 0 else a[1][axis] - b[0][axis]) + gap


def _within(at: Spot, spot: Spot) -> Spot:
    """A place beside what stands itself."""
    x, y, z = (a + at.scale * s for a, s in zip(at.shift, spot.shift, strict=True))
    return Spot(at.scale * spot.scale, (x, y, z))


def _scaled(spot: Spot, scale: float) -> Spot:
    return _within(Spot(scale, (0.0, 0.0, 0.0)), spot)


def _moved(spot: Spot, axis: int, way: float) -> Spot:
    x, y, z = (v + way * (k == axis) for k, v in enumerate(spot.shift))
    return Spot(spot.scale, (x, y, z))


def placed(one: Program, at: Whereabouts) -> Program:
    return transformed(one, shift=torch.tensor(at.position), scale=at.scale)


def _fitted(at: Spot, centre: Sequence[float], fit: float) -> Whereabouts:
    x, y, z = (round(fit * (p - c), 4) + 0.0 for p, c in zip(at.shift, centre, strict=True))  # no -0.0
    return Whereabouts((x, y, z), round(fit * at.scale, 4))
