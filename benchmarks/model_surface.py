# SPDX-License-Identifier: Apache-2.0
"""What the raster family's CUDA kernels move for a textured, antialiased picture of a mesh, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.bench_raster import make_case
from benchmarks.model import SECTOR, Job, Kernel, of_torch
from cuda_ext.antialias import antialias
from cuda_ext.interpolate import interpolate
from cuda_ext.raster import Raster, raster
from cuda_ext.reference.texture import level_sizes
from cuda_ext.texture import SMALL, texture

CHANNELS = 3  # of the image


@dataclass(frozen=True)
class Seen:
    """What a picture came to. `hit(n)`: bytes of the sectors of an array of n bytes a pixel that hold a pixel of the
    mesh."""

    vertices: int
    triangles: int
    pixels: int
    covered: Tensor  # [P] bool
    facets: int  # bytes of the sectors of triangles that are seen
    corners: Tensor  # their vertices

    def hit(self, size: int) -> int:
        return sectors_of(self.covered.nonzero()[:, 0], size)

    def corner(self, size: int) -> int:
        return sectors_of(self.corners, size)


def sectors_of(rows: Tensor, size: int) -> int:
    """Bytes of the sectors that rows of `size` bytes lie in."""
    first, last = rows * size // SECTOR, (rows * size + size - 1) // SECTOR
    return SECTOR * len(torch.cat([first, last]).unique())


def look_at(clip: Tensor, triangles: Tensor, size: int) -> Seen:
    triangle = raster(clip, triangles, (size, size)).triangle.flatten()
    used = triangle[triangle > 0].unique().long() - 1
    corners = triangles[used].unique().long()
    return Seen(clip.shape[1], len(triangles), len(triangle), triangle > 0, sectors_of(used, 12), corners)


def raster_kernels(s: Seen) -> tuple[Kernel, ...]:
    v, t, p = s.vertices, s.triangles, s.pixels
    return (
        of_torch("fills of keys and lists", 0, 8 * p + 8, 2),
        Kernel("dl_raster_project", 16 * v, 16 * v, flops=30 * v),
        Kernel("dl_raster_small", 12 * t + 16 * v, 0, s.hit(8), sectors=3 * SECTOR * t, flops=(60 + 12 * 4) * t),
        Kernel("dl_raster_large", 8),
        Kernel("dl_raster_resolve", 8 * p, 4 * p),
        Kernel("dl_raster_barycentrics", 4 * p + s.facets + s.corner(16), 28 * p, flops=90 * p),
    )


def pyramid_kernels(sizes: list[int], c: int) -> tuple[list[Kernel], list[Kernel]]:
    """Of levels of `sizes` texels of `c` bytes: up from the image, and the gradient down to it."""
    small = next(i for i, size in enumerate(sizes) if size <= SMALL)  # from here on a block makes all
    up, down = max(small, 1), small
    fine, made, rest = sum(sizes[: up - 1]), sum(sizes[1:up]), sum(sizes[up:])
    name = "dl_texture_pyramid"
    ascending = [
        Kernel(name, c * fine, c * made, flops=8 * c * made, launches=up - 1),
        Kernel(f"{name}_small", c * sizes[up - 1], c * rest, flops=8 * c * rest),
    ]
    least, most = sum(sizes[down:]), sum(sizes[:down])
    descending = [
        Kernel(f"{name}_small_backward", c * least, c * (least - 1), flops=8 * c * least),
        Kernel(f"{name}_backward", c * (most + sum(sizes[1 : down + 1])), c * most, flops=8 * c * most, launches=down),
    ]
    return [k for k in ascending if k.launches], [k for k in descending if k.launches]


def surface_kernels(s: Seen, side: int, touched: int) -> tuple[Kernel, ...]:
    """Two texture coordinates with derivatives, an image of `side`, of whose pyramid `touched` bytes are read."""
    t, v, p, c = s.triangles, s.vertices, s.pixels, 4 * CHANNELS
    sizes = [h * w for h, w in level_sizes(side, side)]
    walk = s.facets + s.corner(8)
    up, down = pyramid_kernels(sizes, c)
    return (
        *raster_kernels(s),
        Kernel("dl_interpolate", 4 * p + s.hit(8) + s.hit(16) + walk, 24 * p, flops=40 * p),
        of_torch("copy of the image", c * sizes[0], c * sizes[0]),
        *up,
        Kernel("dl_texture_level", 16 * p, 4 * p, flops=20 * p),
        Kernel("dl_texture_fetch", 12 * p + touched, c * p, sectors=4 * 2 * SECTOR * p, flops=20 * c * p),
        Kernel("dl_antialias_facing", 12 * t + 16 * v, t, flops=20 * t),
        Kernel("dl_antialias_states", 25 * t, t, flops=10 * t),
        Kernel("dl_antialias_silhouettes", 8 * p, 8 * p, flops=20 * p),
        Kernel("dl_antialias_blend", (c + 8) * p, c * p, flops=8 * p),
        of_torch("fills of gradients", 0, 16 * v + c * sum(sizes) + 8 * v + 16 * v, 4),
        Kernel("dl_antialias_blend_backward", (c + 8) * p, c * p, flops=16 * p),
        Kernel(
            "dl_texture_fetch_backward", (12 + c) * p + touched, 12 * p, touched, sectors=4 * 4 * SECTOR * p,
            flops=40 * c * p,
        ),
        Kernel("dl_texture_level_backward", 20 * p, 16 * p, flops=30 * p),
        *down,
        Kernel(
            "dl_interpolate_backward", 4 * p + 2 * (s.hit(8) + s.hit(16)) + walk, 8 * p, s.corner(8),
            sectors=2 * 6 * SECTOR * p, flops=60 * p,
        ),
        Kernel(
            "dl_raster_barycentrics_backward", 4 * p + s.hit(8) + s.hit(4) + s.facets + s.corner(16), 0, s.corner(16),
            sectors=2 * 3 * SECTOR * p, flops=160 * p,
        ),
    )  # fmt: skip


def picture(clip: Tensor, corners: Tensor, image: Tensor, triangles: Tensor, neighbours: Tensor, size: int) -> Tensor:
    seen: Raster = raster(clip, triangles, (size, size))
    uv, slope = interpolate(corners, seen, triangles, derivatives=True)
    assert slope is not None
    colour = texture(image, uv, uv_dxy=slope.flatten(-2))
    return antialias(colour, seen, clip, triangles, neighbours=neighbours)


def texels(clip: Tensor, triangles: Tensor, corners: Tensor, side: int, size: int) -> int:
    """Bytes of the pyramid's sectors that the picture reads: those with a gradient."""
    found = raster(clip, triangles, (size, size))
    uv, slope = interpolate(corners, found, triangles, derivatives=True)
    assert slope is not None
    levels = len(level_sizes(side, side))
    pyramid = torch.zeros(1, sum(h * w for h, w in level_sizes(side, side)), CHANNELS)
    level = torch.ops.dreamlab.texture_level(slope.flatten(-2).contiguous(), side, side)
    op = torch.ops.dreamlab.texture_fetch_backward
    slopes = op(pyramid, uv.contiguous(), level, side, side, levels, True, torch.ones(*uv.shape[:3], CHANNELS))
    flat = torch.nn.functional.pad(slopes[0].flatten(), (0, -slopes[0].numel() % 8)).reshape(-1, 8)
    return SECTOR * int(flat.ne(0).any(1).sum())


def surface_job(count: int, size: int, side: int, device: str) -> Job:
    case = make_case(count, size)
    clip, triangles = case.clip.detach(), case.triangles
    g = torch.Generator().manual_seed(0)
    place = torch.nn.functional.normalize(torch.rand(clip.shape[1], 2, generator=g) + clip[0, :, :2], dim=-1)
    corners, image = 0.5 + 0.4 * place, torch.rand(side, side, CHANNELS, generator=g)
    seen = look_at(clip, triangles, size)
    leaves = [t.to(device).requires_grad_() for t in (clip, corners, image)]
    faces, around, slope = triangles.to(device), case.neighbours.to(device), case.cotangent.to(device)

    def run() -> object:
        return torch.autograd.grad(picture(leaves[0], leaves[1], leaves[2], faces, around, size), leaves, slope)

    kernels = surface_kernels(seen, side, texels(clip, triangles, corners, side, size))
    return Job(f"surface of {count} at {size} px", kernels, run)


JOBS: tuple[Callable[[str], Job], ...] = tuple(
    partial(surface_job, *sizes) for sizes in ((5_000, 256, 512), (50_000, 512, 1024), (500_000, 1024, 2048))
)
