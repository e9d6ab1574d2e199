# SPDX-License-Identifier: Apache-2.0
"""Where Gaussians start: points with a spacing and, when known, colours; from balls, files, meshes and fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.shape import CLOUDS, read_shape
from dreamlab.core.foreign.splat_parser import holds_splats
from dreamlab.core.triangles import Spots, areas, scattered
from dreamlab.core.types import Mesh, Splats
from renderers.gaussian.files import read_splats
from renderers.gaussian.placed import SH0, placed


@dataclass(frozen=True)
class Seeds:
    """N points; `spacing` is the distance to a typical neighbour, `opacity` what stops light at each, when known."""

    points: Tensor  # [N, 3]
    spacing: Tensor  # [N]
    colours: Tensor | None = None  # [N, 3] sRGB in [0, 1]
    opacity: Tensor | None = None  # [N]
    cloud: Splats | None = None  # Gaussians that are there already, in the same order


def ball(count: int, radius: float, generator: torch.Generator) -> Seeds:
    """Uniform in a ball (DreamGaussian)."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    points = direction * radius * torch.rand(count, 1, generator=generator) ** (1 / 3)
    return Seeds(points, torch.full((count,), radius * (4.19 / count) ** (1 / 3)))


def shell(count: int, radius: float, generator: torch.Generator) -> Seeds:
    """Uniform on a sphere."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return Seeds(direction * radius, torch.full((count,), radius * math.sqrt(4 * math.pi / count)))


def from_points(
    points: Tensor, colours: Tensor | None, count: int, generator: torch.Generator, jitter: float = 0.0
) -> Seeds:
    """`count` seeds at given points [P, 3]: a random part of many, or every one about equally often with `jitter`
    (standard deviation in metres) around it."""
    order = torch.randperm(len(points), generator=generator).repeat(-(-count // len(points)))[:count]
    moved = points[order] + jitter * torch.randn(count, 3, generator=generator)
    return Seeds(moved, neighbour_distance(moved), None if colours is None else colours[order])


def on_surface(mesh: Mesh, spots: Spots) -> Seeds:
    """At points of it, with its colours."""
    points = spots.read(mesh.vertices)
    spacing = (float(areas(mesh.vertices, mesh.faces).sum()) / len(points)) ** 0.5
    return Seeds(points, torch.full_like(points[:, 0], spacing), spots.read(mesh.colours))


def from_field(
    density: Callable[[Tensor], Tensor],
    colour: Callable[[Tensor], Tensor],
    radius: float,
    count: int,
    generator: torch.Generator,
    cells: int = 64,
) -> Seeds:
    """Where a field absorbs light and can be seen: cells of a grid in proportion to their absorption, those that
    other full cells enclose on all sides left out. As opaque as the field is there."""
    line = (torch.arange(cells) + 0.5) / cells * 2 * radius - radius
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    width = 2 * radius / cells
    with torch.no_grad():
        taken = -torch.expm1(-density(grid.reshape(-1, 3)).clamp(min=0) * width).reshape(1, 1, cells, cells, cells)
        enclosed = -torch.nn.functional.max_pool3d(-taken, 3, 1, 1)
        weight = (taken * (enclosed < 0.5)).reshape(-1).double()
        if float(weight.sum()) < 1e-6:
            raise ValueError("the field is empty: there is nothing to seed Gaussians on")
        total = weight.cumsum(0)
        cell = torch.searchsorted(total, total[-1] * torch.rand(count, generator=generator, dtype=torch.float64))
        inside = torch.rand(count, 3, generator=generator) - 0.5
        points = grid.reshape(-1, 3)[cell.clamp(max=len(total) - 1)] + width * inside
        spacing = neighbour_distance(points)
        opacity = -torch.expm1(-density(points).clamp(min=0) * spacing)  # what the field stops from one to the next
        return Seeds(points, spacing, colour(points).clamp(0, 1), opacity.clamp(0.01, 0.99))


def from_file(path: str | None, count: int, generator: torch.Generator) -> Seeds:
    """A mesh is sampled by area, a point cloud used as it is; both are centred and scaled into a ball of radius 0.9."""
    if not path:
        raise InputError("scene.start is file: name one with scene.file")
    if holds_splats(Path(path)):
        return from_splats(read_splats(Path(path)))
    shape = read_shape(Path(path), "scene.file:", CLOUDS)
    centre = (shape.vertices.amax(0) + shape.vertices.amin(0)) / 2
    vertices = shape.vertices - centre
    vertices = (vertices * (0.9 / vertices.norm(dim=-1).max())).float()
    if len(shape.faces) == 0:
        return from_points(vertices, shape.colours, count, generator)
    colours = torch.full_like(vertices, 0.5) if shape.colours is None else shape.colours
    mesh = Mesh(vertices, shape.faces, colours, torch.zeros_like(vertices))
    return on_surface(mesh, scattered(mesh.vertices, mesh.faces, count, generator))


def from_splats(cloud: Splats) -> Seeds:
    """Gaussians as they are, all of them; but for a few far ones they are in a ball of radius 0.9 afterwards."""
    scale, centre = framed(cloud)
    here = placed(cloud, scale, cloud.quats.new_tensor([1.0, 0.0, 0.0, 0.0]), -scale * cloud.means.new_tensor(centre))
    colours = (0.5 + SH0 * here.harmonics[:, 0]).clamp(0, 1)
    return Seeds(here.means, here.scales.mean(-1), colours, here.opacity, here)


def framed(cloud: Splats) -> tuple[float, list[float]]:
    """Scale and centre by which most of it comes to lie in the ball."""
    low, high = (torch.quantile(_some(cloud.means), share, dim=0) for share in (0.01, 0.99))
    centre = (low + high) / 2
    return 0.9 / float(
        torch.quantile(_some((cloud.means - centre).norm(dim=-1)), 0.99).clamp(min=1e-6)
    ), centre.tolist()


def _some(values: Tensor) -> Tensor:
    """Evenly, as many as a quantile can be taken of."""
    return values[:: -(-len(values) // 1_000_000)]


def neighbour_distance(points: Tensor, neighbours: int = 3) -> Tensor:
    """[N] root mean square distance to the nearest few, as the first splatting paper starts its scales."""
    from scipy.spatial import cKDTree

    where = points.detach().cpu().double().numpy()
    distance, _ = cKDTree(where).query(where, k=min(neighbours + 1, len(where)))
    near = torch.from_numpy(distance.reshape(len(where), -1)[:, 1:]).square().mean(1).sqrt()
    return near.nan_to_num(0.1).clamp(1e-4, 0.5).float().to(points.device)
