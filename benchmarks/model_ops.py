# SPDX-License-Identifier: Apache-2.0
"""What each op's CUDA kernels move, in closed form from sizes and from what a case makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.bench_splat import make_case
from benchmarks.model import SECTOR, Job, Kernel, of_torch
from cuda_ext.adam_groups import Group, adam_groups
from cuda_ext.hashgrid import HashGrid, encode
from cuda_ext.march import composite, march
from cuda_ext.march import steps_bound as march_steps
from cuda_ext.splat import splat
from cuda_ext.volume import volume
from dreamlab.core.cameras import turntable

INPUTS, RECORD = 56, 64  # bytes of a splat with colours and of its record
BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
HEADROOM = 1.5  # of `cuda_ext.room`: slots for pairs that a training pass takes, used or not


@dataclass(frozen=True)
class Splats:
    """What a picture of splats came to."""

    splats: int  # times views
    pixels: int
    tiles: int
    pairs: int  # of splats and tiles
    loaded: int  # pairs whose records the forward pass reads
    rows: int  # pairs in front of the last one that any pixel of the tile sees
    seen: int  # splats among `loaded`
    drawn: int  # splats with a row
    tried: int  # pairs of pixels and splats that are evaluated


def count_splats(outputs: tuple[Tensor, ...]) -> Splats:
    """From what `torch.ops.dreamlab.splat` returned with `keep`, on the CPU."""
    radii, through, last, records, _, _, starts, pairs = outputs[5:13]
    views, height, width = last.shape
    across, down = -(-width // 16), -(-height // 16)

    def by_tile(picture: Tensor, fill: float) -> Tensor:
        padded = torch.nn.functional.pad(picture, (0, across * 16 - width, 0, down * 16 - height), value=fill)
        return padded.reshape(views, down, 16, across, 16).transpose(2, 3).reshape(-1, 256)

    counts = (starts[1:] - starts[:-1]).long()
    reached = by_tile(last, -1).amax(1).long() + 1
    open_ = by_tile(through, 0.0).amax(1) >= 1e-4
    batches = torch.minimum((reached + 255) // 256 * 256, counts)
    loaded = torch.where(open_, counts, batches)
    rank = torch.arange(len(pairs)) - starts[:-1].long().repeat_interleave(counts)
    view = torch.arange(len(counts)).div(across * down, rounding_mode="floor").repeat_interleave(counts)
    owner = view * records.shape[1] + pairs[: len(rank)].long()

    def unique(limit: Tensor) -> int:
        return len(owner[rank < limit.repeat_interleave(counts)].unique())

    tried = torch.where(by_tile(through, 0.0) >= 1e-4, counts[:, None], by_tile(last, -1) + 1).sum()
    return Splats(
        radii.numel(), last.numel(), len(counts), len(pairs), int(loaded.sum()), int(reached.sum()), unique(loaded),
        unique(reached), int(tried),
    )  # fmt: skip


def splat_kernels(s: Splats) -> tuple[Kernel, ...]:
    """Colours, no background, one loss on the picture and its alpha; one view."""
    n, p = s.splats, s.pairs
    return (
        Kernel("dl_splat_project", INPUTS * n, (RECORD + 8 + 4 + 4 + 4) * n, flops=420 * n),
        of_torch("sort splats by depth", 4 * 24 * n, 4 * 24 * n, 3),
        of_torch("gather and sum of counts", 24 * n, 12 * n, 3),
        Kernel("dl_room"),
        of_torch("fill of keys", 0, HEADROOM * 2 * p),
        Kernel("dl_splat_emit", (8 + 8 + 8) * n, 4 * n + (2 + 4) * p, flops=60 * p),
        of_torch("sort pairs by tile", HEADROOM * 2 * 10 * p, HEADROOM * (2 * 10 * p + 8 * p), 3),
        Kernel(
            "dl_splat_ranges", (HEADROOM * 2 + 8 + 4) * p, 4 * s.tiles + (4 + 4) * p, sectors=(12 + 2 * SECTOR + 4) * p
        ),
        Kernel(
            "dl_splat_forward", 4 * s.tiles + 4 * s.loaded + RECORD * s.seen, 40 * s.pixels,
            sectors=68 * s.loaded + 40 * s.pixels, flops=22 * s.tried,
        ),
        Kernel(
            "dl_splat_backward", 4 * s.tiles + 4 * s.rows + RECORD * s.drawn + (12 + 4 + 4 + 4) * s.pixels,
            RECORD * s.rows + 4 * s.tiles, sectors=132 * s.rows + 24 * s.pixels, flops=60 * s.tried,
        ),
        Kernel(
            "dl_splat_gather", RECORD * s.rows + 4 * p + 4 * s.tiles + (8 + 4 + 4 + INPUTS - 12) * n, INPUTS * n,
            flops=700 * n,
        ),
    )  # fmt: skip


def splat_job(count: int, size: int, device: str) -> Job:
    case = make_case(count, size)
    at, turn, scale, opacity, colour = given = [t.to(device).detach().requires_grad_() for t in case.tensors.values()]
    pose, focal, slope = case.poses.to(device), case.focal.to(device), case.cotangent.to(device)
    plain = [t.detach() for t in case.tensors.values()]
    outputs = torch.ops.dreamlab.splat(
        *plain, None, None, None, None, case.poses, case.focal, True, size, size, 0.3, False, 0.05, None
    )

    def run() -> object:
        seen = splat(at, turn, scale, opacity, colour, pose, focal, (size, size))
        return torch.autograd.grad((seen.rgb * slope).sum() + seen.alpha.sum(), given)

    return Job(f"splat {count} at {size} px", splat_kernels(count_splats(outputs)), run)


def hashgrid_kernels(grid: HashGrid, samples: int, touched: int) -> tuple[Kernel, ...]:
    """Forward and the table's gradient; `touched` bytes of the table lie in sectors that a sample reads."""
    width, corners = grid.levels * grid.features * 4, 8 * samples * grid.levels
    flops = samples * grid.levels * (70 + 8 * (4 + 2 * grid.features))
    row = max(SECTOR, 4 * grid.features)
    return (
        Kernel("dl_hashgrid_encode", 12 * samples + touched, width * samples, sectors=corners * row, flops=flops),
        of_torch("fill of the table's gradient", 0, 4 * grid.rows * grid.features),
        Kernel(
            "dl_hashgrid_table_gradient", (12 + width) * samples, 0, touched, sectors=2 * corners * row, flops=flops
        ),
    )


def sectors_with_numbers(gradient: Tensor) -> int:
    """Bytes of the sectors that hold a number that is not 0."""
    flat = torch.nn.functional.pad(gradient.flatten(), (0, -gradient.numel() % 8)).reshape(-1, 8)
    return SECTOR * int(flat.ne(0).any(1).sum())


def rows_read(grid: HashGrid, positions: Tensor) -> int:
    """Bytes of the table's sectors that `positions` read: those with a gradient, by the twin."""
    from cuda_ext.reference import hashgrid as reference

    table = torch.zeros(grid.rows, grid.features, requires_grad=True)
    (slope,) = torch.autograd.grad(reference.encode(positions, table, grid, grid.levels).sum(), table)
    return sectors_with_numbers(slope)


def hashgrid_job(samples: int, device: str, rows_log2: int = 19) -> Job:
    grid = HashGrid(16, 2, rows_log2, 16, 2048)
    g = torch.Generator().manual_seed(0)
    x, table = torch.rand(samples, 3, generator=g), 0.1 * torch.randn(grid.rows, 2, generator=g)
    here, given = x.to(device), table.to(device).requires_grad_()
    kernels = hashgrid_kernels(grid, samples, rows_read(grid, x))
    slope = torch.randn(samples, grid.width, generator=g).to(device)
    return Job(
        f"hash grid {samples}",
        kernels,
        lambda: torch.autograd.grad(encode(here, given, grid), given, grad_outputs=slope),
    )


def march_kernels(rays: int, hit: int, samples: int, steps: int, cells: int, channels: int) -> tuple[Kernel, ...]:
    """Rays with a capacity, of which `hit` have samples; a loss on colour, alpha and distortion. That every one of the
    grid's `cells` is asked for is an upper bound."""
    words, c = -(-steps // 64), channels
    return (
        Kernel("dl_march_mark", 24 * rays + cells * (1 + 1 / 64 + 1 / 4096), (8 + 8 * words) * rays, flops=400 * rays),
        of_torch("coarse grids, sum of counts, fills", 8 * rays, 8 * rays + 16 * samples, 9),
        Kernel("dl_room"),
        Kernel("dl_march_write", 8 * rays + (24 + 8 * words) * hit, 16 * samples, flops=60 * samples),
        Kernel(
            "dl_composite", (12 + 4 * c) * samples + 8 * rays, 4 * samples + (16 + 4 * c) * rays, flops=90 * samples
        ),
        Kernel(
            "dl_composite_backward", (16 + 4 * c) * samples + (8 + 16 + 16 + 4 * c) * rays, (8 + 4 * c) * samples,
            flops=110 * samples,
        ),
    )  # fmt: skip


def march_job(size: int, device: str) -> Job:
    origin, directions = turntable(1, elevation_deg=30.0).rays(size, size)
    flat = directions.reshape(-1, 3).contiguous()
    start = origin.expand_as(flat).contiguous()
    cells = torch.stack(torch.meshgrid(*3 * [torch.linspace(-1, 1, 64)], indexing="ij"), -1)
    occupied, step = cells.norm(dim=-1).sub(0.6).abs() < 0.1, 0.01
    whole = march(start, flat, occupied, BOX, step=step)
    samples, hit = len(whole.t_start), int((whole.offsets.diff() > 0).sum())
    g = torch.Generator().manual_seed(0)
    density = torch.rand(samples, generator=g).to(device).requires_grad_()
    colour = torch.rand(samples, 3, generator=g).to(device).requires_grad_()
    here, along, grid = (t.to(device) for t in (start, flat, occupied))

    def run() -> object:
        found = march(here, along, grid, BOX, step=step, capacity=samples)
        seen = composite(density, colour, found)
        return torch.autograd.grad(seen.rgb.sum() + seen.alpha.sum() + seen.distortion.sum(), [density, colour])

    kernels = march_kernels(len(flat), hit, samples, march_steps(BOX, step), occupied.numel(), 3)
    return Job(f"march and composite {size} px", kernels, run)


def adam_kernels(numbers: int) -> tuple[Kernel, ...]:
    return (
        of_torch("copy of the flag", 0, 0),
        Kernel("dl_adam_finite", 4 * numbers, 0, flops=2 * numbers),
        Kernel("dl_adam_groups", 16 * numbers, 12 * numbers, flops=16 * numbers),
    )


def adam_job(rows: int, device: str, columns: tuple[int, ...] = (3, 4, 3, 1, 48)) -> Job:
    g, groups = torch.Generator().manual_seed(0), []
    for width in columns:
        param, grad, first = (torch.randn(rows, width, generator=g).to(device) for _ in range(3))
        second = torch.rand(rows, width, generator=g).to(device)
        groups.append(Group(param, grad, first, second, torch.zeros((), dtype=torch.int64).to(device), 1e-3))
    healthy = torch.ones((), dtype=torch.bool).to(device)
    return Job(f"adam {rows} splats", adam_kernels(rows * sum(columns)), lambda: adam_groups(groups, healthy))


def volume_kernels(rays: int, inside: int, channels: int, grids: int, touched: int) -> tuple[Kernel, ...]:
    """`inside`: samples within the cube; bytes of all grids, and of those the ones that samples read."""
    row = 8 * inside * SECTOR * (-(-4 * channels // SECTOR) + (4 * channels % SECTOR > 0))
    out = 4 * (channels + 1) * rays
    return (
        Kernel("dl_volume", 24 * rays + touched, out, sectors=row, flops=inside * channels * 18),
        of_torch("fill of the gradient", 0, grids),
        Kernel("dl_volume_backward", 24 * rays + touched + out, 0, touched, 3 * row, inside * channels * 40),
    )


def volume_job(views: int, device: str, rays: int = 256) -> Job:
    from guidance.toybox.volume import GAIN, PATCH, REACH, SAMPLES, SHIFT, TOKENS, VOLUME_CHANNELS

    side, grids = TOKENS * PATCH, max(1, views // 4)
    g = torch.Generator().manual_seed(0)
    grid = torch.randn(grids, side, side, side, VOLUME_CHANNELS, generator=g)
    direction = torch.nn.functional.normalize(torch.randn(views, rays, 3, generator=g), dim=-1)
    near = 0.4 * torch.randn(views, rays, 3, generator=g)
    t = (torch.arange(SAMPLES) + 0.5) * (2 * REACH / SAMPLES) - REACH
    places = near[:, :, None] + t[:, None] * direction[:, :, None]
    inside = int((places.abs() < REACH).all(-1).sum())
    row = torch.arange(views) * grids // views

    def run(grid: Tensor, row: Tensor, near: Tensor, direction: Tensor) -> Tensor:
        leaf = grid.detach().requires_grad_()
        seen = volume(leaf, row, near, direction, samples=SAMPLES, reach=REACH, shift=SHIFT, gain=GAIN)
        return torch.autograd.grad(seen.square().sum(), leaf)[0]

    touched = sectors_with_numbers(run(grid, row, near, direction))
    there = (grid.to(device), row.to(device), near.to(device), direction.to(device))
    kernels = volume_kernels(views * rays, inside, VOLUME_CHANNELS, 4 * grid.numel(), touched)
    return Job(f"volume {views} views", kernels, partial(run, *there))


JOBS: tuple[Callable[[str], Job], ...] = (
    *(partial(splat_job, count, size) for count, size in ((10_000, 256), (100_000, 512), (1_000_000, 1024))),
    *(partial(hashgrid_job, count) for count in (1 << 16, 1 << 18, 1 << 20)),
    *(partial(march_job, size) for size in (64, 128, 512)),
    *(partial(adam_job, rows) for rows in (10_000, 100_000, 1_000_000)),
    *(partial(volume_job, views) for views in (4, 8, 48)),
)
