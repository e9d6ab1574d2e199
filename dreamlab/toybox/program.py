# SPDX-License-Identifier: Apache-2.0
"""Objects as programs: a packed table of signed-distance primitives, and the pencil (`Sketch`) that writes one.

The columns of a row, the primitives and the exact order of evaluation are those of `cuda_ext.reference.sdf`.
Objects stand in the world's frame: +Y up, front +Z; `Sketch.pack` centres and scales them into a ball of radius 0.9.
Angles are in degrees; `turn=(x, y, z)` turns about x first, then y, then z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

from cuda_ext import sdf_layout as layout
from dreamlab.toybox.colours import MATERIALS, PATTERNS, Finish, linear

if TYPE_CHECKING:  # whoever lists the objects need not load torch
    import torch
    from torch import Tensor

Vec = Sequence[float]
Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
OBJECT_RADIUS = 0.9
_INDEX = np.arange(240) + 0.5
_AZIMUTH = math.pi * (1 + math.sqrt(5)) * _INDEX
_HEIGHT = 1 - 2 * _INDEX / 240
_RING = np.sqrt(1 - _HEIGHT**2)
DIRECTIONS = np.concatenate(  # the six axes, then a Fibonacci lattice: no direction is farther than COVER_DEG from one
    [np.eye(3), -np.eye(3), np.stack([_RING * np.cos(_AZIMUTH), _HEIGHT, _RING * np.sin(_AZIMUTH)], 1)]
)
COVER_DEG = 9.5
OPS = {"union": layout.UNION, "cut": layout.CUT, "keep": layout.KEEP}
MIRRORS = {"x": layout.MIRROR_X, "z": layout.MIRROR_Z, "xz": layout.MIRROR_XZ}


@dataclass(frozen=True)
class Program:
    """K objects: rows [K, P, ROW], finishes of their parts [K, Q, PART] and bounding spheres [K, 4]."""

    rows: Tensor
    parts: Tensor
    bound: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor | list[int]) -> Program:
        return Program(self.rows[index], self.parts[index], self.bound[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Program:
        return Program(*(value.to(device, dtype) for value in (self.rows, self.parts, self.bound)))

    def sdf(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance [K, N] and part id [K, N] of points [K, N, 3] ."""
        from cuda_ext import sdf as op

        return op.sdf(self.rows, points)


def stack(programs: Sequence[Program]) -> Program:
    """One batch of several; shorter tables are padded with empty rows and parts."""
    import torch

    height = max(p.rows.shape[1] for p in programs)
    width = max(p.parts.shape[1] for p in programs)

    def pad(table: Tensor, count: int) -> Tensor:
        return torch.nn.functional.pad(table, (0, 0, 0, count - table.shape[1]))

    return Program(
        torch.cat([pad(p.rows, height) for p in programs]),
        torch.cat([pad(p.parts, width) for p in programs]),
        torch.cat([p.bound for p in programs]),
    )


def multiply(a: Matrix, b: Matrix) -> Matrix:
    rows = [tuple(sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)) for i in range(3)]
    return rows[0], rows[1], rows[2]  # type: ignore[return-value]


def apply(a: Matrix, v: Vec) -> tuple[float, float, float]:
    return tuple(a[i][0] * v[0] + a[i][1] * v[1] + a[i][2] * v[2] for i in range(3))  # type: ignore[return-value]


def transpose(a: Matrix) -> Matrix:
    return tuple(zip(*a, strict=True))  # type: ignore[return-value]


def rotation(turn: Vec) -> Matrix:
    """Local to world: about x first, then y, then z."""
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(math.radians(a)), math.sin(math.radians(a))) for a in turn)
    about_x: Matrix = ((1.0, 0.0, 0.0), (0.0, cx, -sx), (0.0, sx, cx))
    about_y: Matrix = ((cy, 0.0, sy), (0.0, 1.0, 0.0), (-sy, 0.0, cy))
    about_z: Matrix = ((cz, -sz, 0.0), (sz, cz, 0.0), (0.0, 0.0, 1.0))
    return multiply(about_z, multiply(about_y, about_x))


def along(direction: Vec) -> Matrix:
    """A rotation that takes +y to `direction`."""
    size = math.sqrt(sum(v * v for v in direction))
    x, y, z = (v / size for v in direction)
    if y < -0.999999:
        return ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
    k = 1 / (1 + y)
    return ((1 - k * x * x, x, -k * x * z), (-x, y, -z), (-k * x * z, z, 1 - k * z * z))


@dataclass(frozen=True)
class Row:
    """One primitive before packing: what it is, where it stands (`turn`: local to frame) and how it joins the rest."""

    kind: int
    part: str
    params: tuple[float, ...]
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: Matrix = IDENTITY
    op: int = layout.UNION
    smooth: float = 0.0
    round: float = 0.0
    fold: int = layout.NO_FOLD
    count: int = 1
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the fold's centre
    frame: Matrix = IDENTITY  # the fold's frame to the world
    limb: str = ""
    bounds: bool = True

    def moved(self, turn: Matrix, shift: Vec) -> Row:
        """The row after the rigid motion p -> turn p + shift."""
        x, y, z = (a + b for a, b in zip(apply(turn, self.pivot), shift, strict=True))
        return replace(self, frame=multiply(turn, self.frame), pivot=(x, y, z))

    def swung(self, pivot: Vec, turn: Matrix) -> Row:
        """The row after a turn about `pivot`, both in the fold's frame: mirrored images swing as mirror images."""
        offset = [a - b for a, b in zip(self.at, pivot, strict=True)]
        x, y, z = (a + b for a, b in zip(apply(turn, offset), pivot, strict=True))
        return replace(self, at=(x, y, z), turn=multiply(turn, self.turn))

    def support(self, directions: np.ndarray) -> np.ndarray:
        """[D]: how far the primitive and its images under the fold reach in the world along `directions` [D, 3]."""
        world = np.asarray(self.frame)
        far = np.full(len(directions), -np.inf)
        for image in _images(self.fold, self.count):
            linear = world @ image  # local offset -> world, before the row's own turn
            centre = linear @ np.asarray(self.at)
            far = np.maximum(
                far, directions @ centre + _reach(self.kind, self.params, directions @ linear @ np.asarray(self.turn))
            )
        return far + directions @ np.asarray(self.pivot) + self.round + self.smooth / 4

    def pack(self, part_id: int) -> list[float]:
        to_frame = transpose(self.frame)
        to_local = transpose(self.turn)
        shift = [-v for v in apply(to_frame, self.pivot)]
        offset = [-v for v in apply(to_local, self.at)]
        head = [self.kind, self.op, self.smooth, part_id, self.fold, self.count, self.round, 1.0]
        params = [*self.params, *([0.0] * (8 - len(self.params)))]
        return [*head, *params, *_flat(to_frame), *shift, *_flat(to_local), *offset]


def _images(fold: int, count: int) -> list[np.ndarray]:
    """Linear maps that take the primitive to itself and its copies."""
    if fold in (layout.AROUND_Y, layout.AROUND_Z):
        turns = [360.0 * i / count for i in range(count)]
        return [np.asarray(rotation((0, a, 0) if fold == layout.AROUND_Y else (0, 0, a))) for a in turns]
    images = [np.eye(3)]
    if fold in (layout.MIRROR_X, layout.MIRROR_XZ):
        images += [np.diag([-1.0, 1.0, 1.0]) @ m for m in images]
    if fold in (layout.MIRROR_Z, layout.MIRROR_XZ):
        images += [np.diag([1.0, 1.0, -1.0]) @ m for m in images]
    return images


def _reach(kind: int, q: tuple[float, ...], n: np.ndarray) -> np.ndarray:
    """Support function of a primitive (without its rounding) along local directions n [D, 3]."""
    side, up = np.hypot(n[:, 0], n[:, 2]), n[:, 1]
    if kind == layout.SPHERE:
        return np.full(len(n), q[0])
    if kind == layout.ELLIPSOID:
        return np.linalg.norm(n * q[:3], axis=1)
    if kind == layout.BOX:
        return np.abs(n) @ np.asarray(q[:3])
    if kind == layout.CYLINDER:
        return q[0] * side + q[1] * np.abs(up)
    if kind == layout.CAPSULE:
        return q[0] + q[1] * np.abs(up)
    if kind == layout.FRUSTUM:
        return np.maximum(q[0] * side - q[2] * up, q[1] * side + q[2] * up)
    if kind == layout.ROUND_CONE:
        return np.maximum(q[0] - q[2] * up, q[1] + q[2] * up)
    if kind == layout.TORUS:
        return q[0] * side + q[1]
    if kind == layout.ARC:
        bend = np.linspace(-1, 1, 17) * np.arctan2(q[2], q[3])
        return (np.outer(n[:, 0], np.sin(bend)) + np.outer(up, np.cos(bend))).max(1) * q[0] * 1.006 + q[1]
    if kind == layout.PRISM:
        flat = np.maximum(q[0] * np.abs(n[:, 0]) - q[2] * up, q[1] * np.abs(n[:, 0]) + q[2] * up)
        return flat + q[3] * np.abs(n[:, 2])
    if kind == layout.PYRAMID:
        wide = np.abs(n[:, 0]) + np.abs(n[:, 2])
        return np.maximum(q[0] * wide - q[2] * up, q[1] * wide + q[2] * up)
    if kind == layout.STAR:
        tips = 2 * np.pi * np.arange(int(q[3])) / q[3]
        return (np.outer(n[:, 0], np.sin(tips)) + np.outer(up, np.cos(tips))).max(1) * q[0] + q[2] * np.abs(n[:, 2])
    raise ValueError(f"primitive {kind} has no end")


def _flat(a: Matrix) -> list[float]:
    return [v for line in a for v in line]


class Place(TypedDict, total=False):
    """The keywords of every primitive; `Sketch` says what they mean."""

    op: str
    smooth: float
    round: float
    group: bool
    turn: Vec
    mirror: str
    around_y: int
    around_z: int
    pivot: Vec
    frame: Vec
    bounds: bool


@dataclass
class Sketch:
    """Writes an object row by row; rows that move together share a `limb`. Keywords of every primitive:

    op "union" | "cut" | "keep", `smooth` (metres of blend), `group=True` (closes the group before, starts one here),
    `turn` (degrees), `mirror` "x" | "z" | "xz" or `around_y` / `around_z` = n copies, all about `pivot` in object
    space, `frame` (degrees, turns the folded whole about the pivot), `bounds=False` (does not count for the size).
    """

    rows: list[Row] = field(default_factory=list)
    limb: str = ""  # of the rows to come

    def _add(
        self, kind: int, part: str, at: Vec, upright: Matrix, params: tuple[float, ...], **k: Unpack[Place]
    ) -> None:
        op = layout.GROUP if k.get("group", False) else OPS[k.get("op", "union")]
        fold, count = MIRRORS.get(k.get("mirror", ""), layout.NO_FOLD), 1
        if "around_y" in k:
            fold, count = layout.AROUND_Y, k["around_y"]
        if "around_z" in k:
            fold, count = layout.AROUND_Z, k["around_z"]
        px, py, pz = k.get("pivot", (0.0, 0.0, 0.0))
        self.rows.append(
            Row(
                kind,
                part,
                params,
                at=(at[0] - px, at[1] - py, at[2] - pz),
                turn=multiply(rotation(k.get("turn", (0.0, 0.0, 0.0))), upright),
                op=op,
                smooth=k.get("smooth", 0.0),
                round=k.get("round", 0.0),
                fold=fold,
                count=count,
                pivot=(px, py, pz),
                frame=rotation(k.get("frame", (0.0, 0.0, 0.0))),
                limb=self.limb,
                bounds=k.get("bounds", True),
            )
        )

    def sphere(self, part: str, at: Vec, radius: float, **k: Unpack[Place]) -> None:
        self._add(layout.SPHERE, part, at, IDENTITY, (radius,), **k)

    def ellipsoid(self, part: str, at: Vec, radii: Vec, **k: Unpack[Place]) -> None:
        self._add(layout.ELLIPSOID, part, at, IDENTITY, tuple(radii), **k)

    def box(self, part: str, at: Vec, half: Vec, **k: Unpack[Place]) -> None:
        """Half sizes include the rounding (`round`)."""
        r = k.get("round", 0.0)
        self._add(layout.BOX, part, at, IDENTITY, tuple(v - r for v in half), **k)

    def cylinder(self, part: str, start: Vec, end: Vec, radius: float, **k: Unpack[Place]) -> None:
        self.cone(part, start, end, radius, radius, **k)

    def cone(self, part: str, start: Vec, end: Vec, radius: float, top: float = 0.0, **k: Unpack[Place]) -> None:
        """A cone, or its frustum, from the disc at `start` to the disc at `end`; `round` is taken from its size."""
        r = k.get("round", 0.0)
        centre, turn, half = _between(start, end)
        if radius == top:
            self._add(layout.CYLINDER, part, centre, turn, (radius - r, half - r), **k)
        else:
            params = (max(radius - r, 0.0), max(top - r, 0.0), half - r)
            self._add(layout.FRUSTUM, part, centre, turn, params, **k)

    def capsule(
        self, part: str, start: Vec, end: Vec, radius: float, top: float | None = None, **k: Unpack[Place]
    ) -> None:
        """The hull of a ball at `start` and one (of radius `top`) at `end`."""
        centre, turn, half = _between(start, end)
        top = radius if top is None else top
        if top == radius:
            self._add(layout.CAPSULE, part, centre, turn, (radius, half), **k)
        else:
            half = max(half, 0.51 * abs(radius - top))
            self._add(layout.ROUND_CONE, part, centre, turn, (radius, top, half), **k)

    def torus(self, part: str, at: Vec, ring: float, radius: float, **k: Unpack[Place]) -> None:
        """Around the local y axis."""
        self._add(layout.TORUS, part, at, IDENTITY, (ring, radius), **k)

    def arc(self, part: str, at: Vec, ring: float, radius: float, half_deg: float, **k: Unpack[Place]) -> None:
        """A bent rod in the local xy plane: the part of a ring within `half_deg` of +y."""
        a = math.radians(half_deg)
        self._add(layout.ARC, part, at, IDENTITY, (ring, radius, math.sin(a), math.cos(a)), **k)

    def below(self, part: str, at: Vec, up: Vec, **k: Unpack[Place]) -> None:
        """The half space under the plane through `at` with normal `up`: for op="keep" or "cut"."""
        k["bounds"] = False
        self._add(layout.HALF_SPACE, part, at, along(up), (), **k)

    def prism(
        self, part: str, at: Vec, bottom: float, top: float, half_height: float, half_depth: float, **k: Unpack[Place]
    ) -> None:
        """A trapezoid in xy (half widths at the bottom and the top) pushed along z."""
        r = k.get("round", 0.0)
        params = (max(bottom - r, 0.0), max(top - r, 0.0), half_height - r, half_depth - r)
        self._add(layout.PRISM, part, at, IDENTITY, params, **k)

    def pyramid(self, part: str, at: Vec, bottom: float, top: float, half_height: float, **k: Unpack[Place]) -> None:
        """Square, upright: half widths at the bottom and the top."""
        r = k.get("round", 0.0)
        params = (max(bottom - r, 0.0), max(top - r, 0.0), half_height - r)
        self._add(layout.PYRAMID, part, at, IDENTITY, params, **k)

    def star(
        self, part: str, at: Vec, outer: float, inner: float, half_depth: float, points: int = 5, **k: Unpack[Place]
    ) -> None:
        """A star in the xy plane with a point at +y; inner = outer cos(pi / points) is a regular polygon."""
        r = k.get("round", 0.0)
        self._add(layout.STAR, part, at, IDENTITY, (outer - r, inner - r, half_depth - r, points), **k)

    def polygon(self, part: str, at: Vec, radius: float, half_depth: float, points: int, **k: Unpack[Place]) -> None:
        self.star(part, at, radius, radius * math.cos(math.pi / points), half_depth, points, **k)

    def _reach(self, directions: np.ndarray) -> np.ndarray:
        rows = [row for row in self.rows if row.bounds and row.op not in (layout.CUT, layout.KEEP)]
        return np.max([row.support(directions) for row in rows], 0)

    def reach(self, direction: Vec) -> float:
        """How far the rows that add matter extend from the origin along a unit direction."""
        return float(self._reach(np.array([direction]))[0])

    def measure(self) -> tuple[list[float], float]:
        """Centre and radius of a ball that holds every row that adds matter."""
        reach = self._reach(DIRECTIONS)
        centre = (reach[:3] - reach[3:6]) / 2
        # A point at distance r lies within COVER_DEG of one of the directions, so r cos(COVER_DEG) <= reach.
        radius = (reach - DIRECTIONS @ centre).max() / math.cos(math.radians(COVER_DEG))
        return centre.tolist(), float(radius)

    def pack(
        self,
        finishes: dict[str, Finish],
        *,
        fit: float | None = OBJECT_RADIUS,
        measured: tuple[Vec, float] | None = None,
    ) -> Program:
        """A program of one object, centred and scaled into a ball of radius `fit` (None: left where it is).

        `finishes` names every part and orders their ids. `measured` fixes centre and radius (moving objects keep one).
        """
        import torch

        centre, radius = measured or self.measure()
        scale = 1.0 if fit is None else fit / radius
        ids = {name: i for i, name in enumerate(finishes)}
        table = np.array([row.pack(ids[row.part]) for row in self.rows], dtype=np.float64)
        if fit is not None:
            _rescale(table, scale, centre)
        bound = [*centre, radius] if fit is None else [0.0, 0.0, 0.0, fit]
        finish = torch.tensor([_finish(f) for f in finishes.values()], dtype=torch.float32)
        return Program(torch.from_numpy(table).float()[None], finish[None], torch.tensor([bound], dtype=torch.float32))


def _rescale(table: np.ndarray, scale: float, centre: Vec) -> None:
    """In place: the object becomes scale * (object - centre). The local frame keeps its size and `SCALE` undoes it."""
    turn = table[:, layout.FRAME : layout.FRAME + 9].reshape(-1, 3, 3)
    table[:, layout.FRAME + 9 : layout.FRAME + 12] += turn @ np.asarray(centre)
    table[:, layout.FRAME : layout.FRAME + 9] /= scale
    table[:, layout.SCALE] *= scale
    table[:, layout.SMOOTH] *= scale


def _between(start: Vec, end: Vec) -> tuple[tuple[float, float, float], Matrix, float]:
    """Centre, rotation (+y along the axis) and half length of a segment."""
    delta = [b - a for a, b in zip(start, end, strict=True)]
    centre = tuple((a + b) / 2 for a, b in zip(start, end, strict=True))
    return centre, along(delta), math.sqrt(sum(v * v for v in delta)) / 2  # type: ignore[return-value]


def _finish(finish: Finish) -> list[float]:
    roughness, metallic = MATERIALS[finish.material]
    pattern = PATTERNS.index(finish.pattern)
    return [*linear(finish.colour), *linear(finish.second), pattern, finish.period, roughness, metallic, 0.0, 0.0]
