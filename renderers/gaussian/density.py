# SPDX-License-Identifier: Apache-2.0
"""Ways from one representation to another. Gaussians become a surface by their summed density."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dreamlab.core.errors import Diverged
from dreamlab.core.types import Mesh

LEVEL = 0.5  # the surface is where the optical density of the cloud reaches this; 1 - exp(-1/2) of light is stopped
REACH = 3.0  # standard deviations beyond which a Gaussian adds nothing
MIN_PART = 0.02  # connected parts with less than this share of the largest one's area are floaters


class Density(NamedTuple):
    """What a cloud stops, on a grid: made once for all levels."""

    density: Tensor  # [X, Y, Z]
    tint: Tensor  # [X, Y, Z, 3] colours weighted by it
    low: Tensor  # [3] its first corner
    cell: float

    def surface(self, level: float = LEVEL) -> Mesh:
        """Marching cubes, coloured by the same weights."""
        return _surface(self.density, self.tint, self.low, self.cell, level)


def density_of(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, 3]
    resolution: int,
) -> Density:
    """sum_i -log(1 - o_i) exp(-d_i^2 / 2)."""
    keep = (opacities > 1 / 255) & torch.isfinite(means).all(-1) & (means.abs() < 2).all(-1)
    if not bool(keep.any()):
        raise Diverged("the scene is empty: no Gaussian is visible; try more steps, or a lower opacity regulariser")
    means, quats, scales = means[keep].double(), quats[keep].double(), scales[keep].double()
    mass = -torch.log1p(-opacities[keep].double().clamp(max=0.99))
    colors = colors[keep].double()
    # One cell is the smallest thing the grid can show: thinner Gaussians are widened, so that none falls between cells.
    low = (means - REACH * scales.amax(-1, keepdim=True)).amin(0).clamp(min=-1.6)
    high = (means + REACH * scales.amax(-1, keepdim=True)).amax(0).clamp(max=1.6)
    cell = float((high - low).max()) / resolution
    shape = [int(n) for n in ((high - low) / cell).ceil().long() + 1]
    return Density(
        *_density_grid(means, quats, scales.clamp(min=0.6 * cell), mass, colors, low, cell, shape), low, cell
    )


def gaussians_to_mesh(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    resolution: int,
    level: float = LEVEL,
) -> Mesh:
    """The surface at one level of `density_of` a cloud."""
    return density_of(means, quats, scales, opacities, colors, resolution).surface(level)


def _density_grid(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    mass: Tensor,
    colors: Tensor,
    low: Tensor,
    cell: float,
    shape: list[int],
) -> tuple[Tensor, Tensor]:
    """Density [X, Y, Z] and density-weighted colour [X, Y, Z, 3]; Gaussians of similar reach share one window size."""
    inverse = _rotation(quats).transpose(1, 2) / scales[:, :, None]  # world offset -> units of standard deviation
    window = (REACH * scales.amax(-1) / cell).ceil().long().clamp(max=max(shape))
    bound = torch.tensor(shape, device=means.device)
    stride = torch.tensor([shape[1] * shape[2], shape[2], 1], device=means.device)
    flat = means.new_zeros(shape[0] * shape[1] * shape[2], 4)
    for reach in window.unique().tolist():
        rows = (window == reach).nonzero()[:, 0]
        steps = torch.arange(-reach, reach + 1, device=means.device)
        offsets = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)  # [W, 3]
        chunk = max(1, 2_000_000 // len(offsets))
        for part in rows.split(chunk):
            index = ((means[part] - low) / cell).round().long()[:, None] + offsets  # [P, W, 3]
            local = torch.einsum("pij,pwj->pwi", inverse[part], low + index * cell - means[part][:, None])
            squared = local.square().sum(-1)
            inside = (index >= 0).all(-1) & (index < bound).all(-1) & (squared < REACH**2)
            value = (mass[part][:, None] * torch.exp(-0.5 * squared))[inside]
            place = (index[inside] * stride).sum(-1)
            tint = colors[part][:, None].expand(-1, len(offsets), -1)[inside]
            flat.index_add_(0, place, torch.cat([value[:, None], value[:, None] * tint], 1))
    grid = flat.reshape(*shape, 4)
    return grid[..., 0], grid[..., 1:]


def _surface(density: Tensor, tint: Tensor, low: Tensor, cell: float, level: float) -> Mesh:
    """Marching cubes, floaters dropped, colour and outward normal read from the grid."""
    import numpy as np
    import trimesh
    from skimage.measure import marching_cubes

    density, tint, low = density.cpu(), tint.cpu(), low.cpu()
    field = np.pad(density.numpy(), 1)  # a closed surface needs empty space around it
    if field.max() <= level:
        peak = float(field.max())
        raise Diverged(f"empty geometry: the density peaks at {peak:.3g}, the surface needs {level}; train longer")
    vertices, faces, _, _ = marching_cubes(field, level, gradient_direction="ascent")
    mesh = trimesh.Trimesh(vertices - 1, faces, process=False)
    areas = [
        (float(mesh.area_faces[part].sum()), part) for part in trimesh.graph.connected_components(mesh.face_adjacency)
    ]
    kept = [part for area, part in areas if area >= MIN_PART * max(area for area, _ in areas)]
    mesh.update_faces(np.concatenate(kept))
    mesh.remove_unreferenced_vertices()
    if mesh.volume < 0:
        mesh.invert()
    points = torch.from_numpy(np.array(mesh.vertices))
    shade = _sample(tint, points) / _sample(density[..., None], points).clamp(min=1e-9)
    normals = torch.from_numpy(np.array(mesh.vertex_normals)).float()
    return Mesh(
        (low + points * cell).float(),
        torch.from_numpy(np.array(mesh.faces)).long(),
        shade.clamp(0, 1).float(),
        torch.nn.functional.normalize(normals, dim=-1),
    )


def _sample(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear read of [X, Y, Z, C] at [V, 3] in cells."""
    size = torch.tensor(grid.shape[:3], dtype=points.dtype)
    unit = (2 * points / (size - 1) - 1).flip(-1)[None, None, None]  # grid_sample wants z, y, x order
    volume = grid.permute(3, 0, 1, 2)[None]
    found = torch.nn.functional.grid_sample(volume, unit, align_corners=True, padding_mode="border")
    return found[0, :, 0, 0].T


def _rotation(quats: Tensor) -> Tensor:
    """[N, 3, 3] of unit quaternions wxyz."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)
