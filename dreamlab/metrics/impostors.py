# SPDX-License-Identifier: Apache-2.0
"""What is none of the world's categories: pictures for the judge's reject class, drawn from nothing but the world.

Wrong objects are programs: true ones with parts missing or out of place, parts of two objects, an object joined with
itself turned around (two faces), blobs, plain solids. Wrong pictures are made of true ones: warped, smeared, blended,
noisy, squeezed, turned over, shuffled; or of noise: clouds in the shape that a half-trained prior draws.
A wrong object is labelled none only where its picture differs enough from the true one; in between it has no label.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import sdf_layout as layout
from dreamlab.toybox.colours import COLOURS, Finish
from dreamlab.toybox.program import OBJECT_RADIUS, Program, Sketch, rotation
from dreamlab.toybox.scene import join, transformed

SAME, OTHER = 0.02, 0.09  # share of the drawn area that differs: below, still the object; above, none
OBJECTS = ("broken", "mixed", "janus", "blob", "solid")
PICTURES = ("warped", "smeared", "blended", "noisy", "squeezed", "turned", "shuffled", "cloud", "empty")
ROOM = 1.15  # radius of the bounding sphere of objects whose parts have moved


def difference(picture: Tensor, truth: Tensor) -> Tensor:
    """[B]: summed absolute difference of RGB-and-alpha pictures [B, H, W, 4], per covered pixel of either."""
    apart = (picture - truth).abs().mean(-1).sum((1, 2))
    covered = torch.maximum(picture[..., 3], truth[..., 3]).sum((1, 2))
    return apart / covered.clamp(min=1.0)


def broken(rng: random.Random, one: Program) -> Program:
    """Some rows missing, moved or resized."""
    rows = one.rows.clone()
    count = rows.shape[1]
    for i in rng.sample(range(count), rng.randint(1, max(1, count // 2))):
        fate = rng.random()
        if fate < 0.5:
            rows[0, i, layout.KIND] = layout.NONE
        elif fate < 0.75:
            shift = torch.tensor([rng.gauss(0, 0.35) for _ in range(3)])
            frame = rows[0, i, layout.FRAME : layout.FRAME + 9].reshape(3, 3)
            rows[0, i, layout.FRAME + 9 : layout.FRAME + 12] -= frame @ shift
        else:
            _resize(rows[0, i], math.exp(rng.choice((-1, 1)) * rng.uniform(0.35, 0.8)))
    return _roomy(replace(one, rows=rows))


def mixed(rng: random.Random, first: Program, second: Program) -> Program:
    """Half of one object's rows and half of another's."""
    halves = []
    for one in (first, second):
        rows = one.rows.clone()
        count = rows.shape[1]
        gone = rng.sample(range(count), max(1, round(count * rng.uniform(0.3, 0.7)))) if count > 1 else []
        rows[0, gone, layout.KIND] = layout.NONE
        halves.append(replace(one, rows=rows))
    return _roomy(join(*halves))


def janus(one: Program) -> Program:
    """The object and itself turned around: a front on both sides."""
    about = torch.tensor(rotation((0.0, 180.0, 0.0)))
    return _roomy(join(one, transformed(one, about)))


def blob(rng: random.Random, finishes: Sequence[Finish] = ()) -> Program:
    """A few soft ellipsoids in one to three colours (drawn, or given): what an unfinished optimisation leaves."""
    sketch = Sketch()
    for _ in range(rng.randint(1, 7)):
        at = [rng.gauss(0, 0.32) for _ in range(3)]
        radii = [math.exp(rng.gauss(math.log(0.38), 0.35)) for _ in range(3)]
        turn = [rng.uniform(0, 180) for _ in range(3)]
        sketch.ellipsoid(rng.choice("abc"), at, radii, turn=turn, smooth=rng.uniform(0, 0.3))
    if finishes:
        return sketch.pack({part: finishes[min(i, len(finishes) - 1)] for i, part in enumerate("abc")})
    return _painted(rng, sketch)


def solid(rng: random.Random) -> Program:
    """A plain body, of proportions that no category has; a third of them under a cap of another colour."""
    sketch = Sketch()
    kind, turn = (
        rng.choice(("sphere", "ellipsoid", "box", "cylinder", "cone", "capsule")),
        [0.0, rng.uniform(0, 90), 0.0],
    )
    if rng.random() < 0.4:
        turn = [rng.uniform(0, 180) for _ in range(3)]
    long = math.exp(rng.choice((-1, 1)) * rng.uniform(0.35, 1.0))
    if kind == "sphere":
        sketch.sphere("a", (0, 0, 0), 0.8)
    elif kind == "ellipsoid":
        sketch.ellipsoid("a", (0, 0, 0), [0.6, 0.6 * long, rng.uniform(0.4, 0.8)], turn=turn)
    elif kind == "box":
        sketch.box("a", (0, 0, 0), [0.5, 0.5 * long, rng.uniform(0.25, 0.8)], turn=turn, round=rng.uniform(0.01, 0.12))
    elif kind == "cylinder":
        sketch.cylinder("a", (0, -0.5 * long, 0), (0, 0.5 * long, 0), 0.5, turn=turn, round=rng.uniform(0, 0.1))
    elif kind == "cone":
        sketch.cone("a", (0, -0.5 * long, 0), (0, 0.5 * long, 0), 0.55, rng.uniform(0, 0.3), turn=turn)
    else:
        sketch.capsule("a", (0, -0.5 * long, 0), (0, 0.5 * long, 0), 0.4, rng.uniform(0.15, 0.4), turn=turn)
    if rng.random() < 0.33:  # equal volume, right main colour, second colour on a side
        sketch.below("b", (0, 0, 0), [rng.gauss(0, 1) for _ in range(3)], op="cut")
        sketch.ellipsoid("b", (0, 0, 0), (0.55, 0.55, 0.55), group=True)
    return _painted(rng, sketch)


def _painted(rng: random.Random, sketch: Sketch) -> Program:
    return sketch.pack({part: Finish(rng.choice(tuple(COLOURS))) for part in "abc"})


def _resize(row: Tensor, factor: float) -> None:
    """In place: a primitive grows about its own centre."""
    row[layout.LOCAL : layout.LOCAL + 12] /= factor
    row[layout.SCALE] *= factor


def _roomy(one: Program) -> Program:
    return replace(one, bound=torch.tensor([[0.0, 0.0, 0.0, ROOM * OBJECT_RADIUS]]))


def spoil(kind: str, rgb: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [B, S, S, 3] of true objects made into pictures of nothing."""
    count, size = rgb.shape[:2]

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if kind == "warped":
        return warp(rgb, torch.full((count,), uniform(0.16, 0.4)), torch.ones(count, 2), generator)
    if kind == "smeared":
        return blur(rgb, uniform(3.5, 9.0))
    if kind == "blended":
        order = torch.randperm(count, generator=generator)
        return (rgb + rgb[order] + (rgb[order.flip(0)] if uniform(0, 1) < 0.5 else rgb[order])) / 3
    if kind == "noisy":
        share = uniform(0.55, 1.0)
        return (1 - share) * rgb + share * (0.5 + 0.35 * torch.randn(rgb.shape, generator=generator))
    if kind == "squeezed":
        stretch = torch.ones(count, 2)
        stretch[:, int(uniform(0, 2))] = uniform(1.8, 3.0)
        return warp(rgb, torch.zeros(count), stretch, generator)
    if kind == "turned":
        return rgb.rot90(1 + int(uniform(0, 3)), (1, 2))
    if kind == "shuffled":
        edge = size // 4
        tiles = rgb.unfold(1, edge, edge).unfold(2, edge, edge).flatten(1, 2)  # [B, 16, 3, e, e]
        tiles = tiles[:, torch.randperm(16, generator=generator)].unflatten(1, (4, 4))
        return tiles.permute(0, 1, 4, 2, 5, 3).reshape(rgb.shape)
    if kind == "cloud":
        return cloud(count, size, generator)
    flat = torch.rand(count, 1, 1, 3, generator=generator)
    return (flat + uniform(0, 0.2) * torch.randn(rgb.shape, generator=generator)).expand(rgb.shape)


def cloud(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Two or three colours in soft-edged patches within a soft square or disc."""

    def field(cells: int) -> Tensor:  # [B, S, S, 1], standard normal at the cells
        noise = torch.randn(count, 1, cells, cells, generator=generator)
        return F.interpolate(noise, (size, size), mode="bicubic").permute(0, 2, 3, 1)

    def pick(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    line = torch.linspace(-1, 1, size)
    x, y = line[None, None, :, None], line[None, :, None, None]
    wide, high, norm = 0.45 + 0.4 * pick(1, 1, 1), 0.45 + 0.4 * pick(1, 1, 1), 2 + 6 * pick(1, 1, 1)
    reach = 1 - ((x / wide).abs() ** norm + (y / high).abs() ** norm) ** (1 / norm)
    cells = 4 + int(9 * float(torch.rand((), generator=generator)))
    inside = torch.sigmoid((reach + 0.25 * pick(1, 1, 1) * field(cells)) * (8 + 30 * pick(1, 1, 1)))
    ground, first, second, third = (pick(1, 1, 3) for _ in range(4))
    colour = first + (second - first) * torch.sigmoid(12 * (field(cells) - 0.6))
    colour = colour + (third - colour) * torch.sigmoid(12 * (field(cells + 3) - 1.2))
    shade = 1 + 0.25 * pick(1, 1, 1) * field(cells)
    return (inside * colour * shade + (1 - inside) * ground).clamp(0, 1)


def warp(rgb: Tensor, amount: Tensor, stretch: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth random displacement (`amount` [B], in half widths of the picture) and stretching of both axes [B, 2]."""
    count, size = rgb.shape[:2]
    field = F.interpolate(torch.randn(count, 2, 5, 5, generator=generator), (size, size), mode="bicubic")
    line = (torch.arange(size) + 0.5) * 2 / size - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1) * stretch[:, None, None]
    grid = grid + amount[:, None, None, None] * field.permute(0, 2, 3, 1)
    moved = F.grid_sample(rgb.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False)
    return moved.permute(0, 2, 3, 1)


def blur(rgb: Tensor, sigma: float) -> Tensor:
    """Gaussian, the border repeated."""
    reach = max(1, min(math.ceil(3 * sigma), rgb.shape[1] - 1))
    steps = torch.arange(-reach, reach + 1)
    taps = torch.exp(-0.5 * (steps / sigma).square())
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    x = rgb.permute(0, 3, 1, 2)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), taps, groups=3)
    x = F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), taps.transpose(2, 3), groups=3)
    return x.permute(0, 2, 3, 1)
