# SPDX-License-Identifier: Apache-2.0
"""What is empty inside of what the pictures show.

Scenes come out as their hulls: no camera of the ring knows the inside of a bell, and a lid painted in the right shade
explains a mug as well as its hollow does. A small network that has seen the world's programs says, at a point inside,
how far the true solid's surface is (negative: the point is in it), told the kind of the object, where the point is in
the object's box, and how far the surface of what was made is along RAYS: a wall is as thick as it is below whatever
outside a run has made. What it says only ever takes away: a surface keeps its outside, except where nothing solid is
near behind it (the mug's lid). Of what is nothing of the world's it knows nothing, and nothing is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core import tensors
from dreamlab.core.types import Carve
from dreamlab.toybox.caption import parse

RAYS = tuple(ray for ray in itertools.product((-1, 0, 1), repeat=3) if any(ray))  # to the neighbours of a cell
FAR, NEAR = 0.6, 0.08  # metres: a ray's length is told up to the one, and finely about the other
REACH = 0.15  # metres: distances are told apart up to here
SKIN = 0.02  # metres below the outside where something must be that deep in the open to go
WIDTH, KNOWN = 64, 16  # of the layers, and of what is kept of a kind
POINT = 9  # numbers that say where a point is: in the box, in metres, and the box
LEAST = 0.1  # share of what was made below which it is taken for solid
FORMAT = 1
FILE = "hollow.safetensors"


def lengths(field: Tensor, cell: float) -> Tensor:
    """[26, X, Y, Z] metres along RAYS from the corners of a grid to where `field` [X, Y, Z], positive inside, is no
    longer so; 0 outside. Beyond the grid nothing is inside. One sweep of the grid for each ray."""
    inside = field > 0
    out = []
    for ray in RAYS:
        axis = next(i for i, step in enumerate(ray) if step)
        order = range(field.shape[axis])
        sweep = reversed(order) if ray[axis] > 0 else order
        size = cell * sum(step * step for step in ray) ** 0.5
        across = [step for i, step in enumerate(ray) if i != axis]
        found = torch.zeros_like(field)
        last = torch.zeros_like(field.select(axis, 0))  # beyond: nothing, and the field is as low as this is high
        beyond = -torch.ones_like(last)
        for i in sweep:
            here, solid = field.select(axis, i), inside.select(axis, i)
            ahead, other = _shifted(last, across, 0.0), _shifted(beyond, across, -1.0)
            part = here / (here - other).clamp(min=1e-9)
            value = torch.where(solid, size * torch.where(other > 0, 1.0, part) + ahead, 0.0)
            found.select(axis, i).copy_(value)
            last, beyond = value, here
        out.append(found)
    return torch.stack(out)


def _shifted(plane: Tensor, steps: list[int], outside: float) -> Tensor:
    """[A, B] the values `steps` farther on in both directions."""
    a, b = steps
    if not a and not b:
        return plane
    padded = F.pad(plane[None], (1, 1, 1, 1), value=outside)[0]
    return padded[1 + a : 1 + a + plane.shape[0], 1 + b : 1 + b + plane.shape[1]]


@dataclass(frozen=True)
class Inside:
    """The corners of a grid that are inside, and what is told of them."""

    index: Tensor  # [N] in the flat grid
    told: Tensor  # [N, POINT + 2 * 26]
    depth: Tensor  # [N] metres to the nearest outside along a ray


def inside(field: Tensor, low: Tensor, cell: float) -> Inside:
    """Of a field [X, Y, Z] whose first corner is at `low` [3]."""
    index = (field.flatten() > 0).nonzero()[:, 0]
    rays = lengths(field, cell).flatten(1)[:, index].T
    points = low + cell * torch.stack(torch.unravel_index(index, field.shape), -1)
    first, final = (points.amin(0), points.amax(0)) if len(points) else (low, low)
    middle, half = (first + final) / 2, ((final - first) / 2).clamp(min=cell)
    place = torch.cat([(points - middle) / half, points, half.expand_as(points)], 1)
    return Inside(index, torch.cat([place, (rays / FAR).clamp(max=1), (-rays / NEAR).exp()], 1), rays.amin(1))


def whole(field: Tensor) -> Tensor:
    """A field without pockets that nothing outside reaches: what a run has left out where nobody looks is no wall."""
    from scipy.ndimage import binary_fill_holes

    solid = field > 0
    closed = torch.from_numpy(binary_fill_holes(solid.numpy()))
    return torch.where(closed & ~solid, float(field.max()) / 2, field)


class Hollow(nn.Module):
    """Three layers; a kind says how much of the first two's features there is, and what is added."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.kinds = kinds
        self.kind = nn.Parameter(torch.randn(len(kinds), KNOWN))
        self.bend = nn.Linear(KNOWN, 4 * WIDTH)
        self.first = nn.Linear(POINT + 2 * len(RAYS), WIDTH)
        self.second, self.third = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, told: Tensor, kind: Tensor) -> Tensor:
        """[N] metres to the true surface, negative in the solid, within REACH; of points of kinds [N] or [1]."""
        gain, more, gain2, more2 = self.bend(self.kind[kind]).chunk(4, -1)
        x = F.silu(self.first(told) * (1 + gain) + more)
        x = x + F.silu(self.second(x) * (1 + gain2) + more2)
        x = x + F.silu(self.third(x))
        return REACH * torch.tanh(self.last(x)[:, 0])


def opened(net: Hollow, kind: str, field: Tensor, low: Tensor, cell: float) -> Tensor | None:
    """[X, Y, Z] metres from the corners of a grid to where what `kind` is begins, positive in what has to go, and
    beside what is there as on its edge; None where less than LEAST of it would go: then it is no hollow."""
    there = inside(whole(field.cpu()), low.cpu(), cell)
    with torch.no_grad():
        away = net(there.told, torch.tensor([net.kinds.index(kind)]))
    away = away - (SKIN - there.depth).clamp(min=0)
    if float((away > 0).sum()) < LEAST * len(away):
        return None
    made = torch.zeros(2, field.numel())
    made[:, there.index] = torch.stack([away, torch.ones_like(away)])
    value, known = made.reshape(2, 1, *field.shape)
    around, many = F.avg_pool3d(made.reshape(2, 1, *field.shape), 3, 1, 1)
    beside = torch.where(many > 0, around / many.clamp(min=1e-9), -REACH)
    return torch.where(known > 0, value, beside)[0].to(field.device)


def carver(path: Path, text: str) -> Carve | None:
    """What takes away what is empty inside of the one thing that a text names; None of what is not hollow."""
    try:
        named = parse(text)
    except ValueError:
        return None
    net = load(path)
    return partial(opened, net, named.category) if named.category in net.kinds and not named.relation else None


def packed(net: Hollow, facts: Mapping[str, object]) -> bytes:
    """A safetensors file in fp16; the kinds that it knows are in its header."""
    state = {name: value.detach().to("cpu", torch.float16) for name, value in net.state_dict().items()}
    header: dict[str, object] = {"kinds": net.kinds, "facts": dict(facts), tensors.FORMAT: FORMAT}
    return tensors.packed(state, "hollow", header)


@lru_cache(maxsize=4)
def load(path: Path) -> Hollow:
    """Read and check; ModelError says in one line what is missing or damaged."""

    def build(header: tensors.Header, state: dict[str, Tensor]) -> Hollow:
        net = Hollow(tuple(map(str, header["kinds"])))
        net.load_state_dict(state)
        return net.requires_grad_(False).eval()

    again = "reinstall dreamlab, or train it with `dreamlab toybox train --role hollow`"
    return tensors.network(path, "hollow", FORMAT, again, build)
