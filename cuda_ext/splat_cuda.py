# SPDX-License-Identifier: Apache-2.0
"""CUDA launches of `splat` (kernels in csrc/splat_cuda.cu); compiled, run on the host in tests, not yet on a device.

The number of (splat, tile) pairs is known on the device only. A pass without a backward reads it, so that a picture
that is looked at is whole; one that trains takes room for as many as `room` expects and waits for nothing.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import nvrtc, room, splat_ops
from cuda_ext.splat_ops import Params

PIXELS = splat_ops.TILE * splat_ops.TILE
MOST_NARROW = 2**15 - 1  # tiles that a key of 16 bits tells apart, besides the one of unused slots


def _launch(kernel: str, params: Params, device: torch.device, items: int, threads: int, *more: object) -> None:
    grid = (-(-items // threads), 1, 1)
    nvrtc.launch("splat", kernel, device, grid, (threads, 1, 1), [params, *more])


def forward(
    scene: dict[str, Tensor | None],
    size: tuple[int, int],
    rest: tuple[float, bool, float],  # dilation, compensate, near
    keep: bool,
) -> tuple[Tensor, ...]:
    """What `dreamlab::splat` returns."""
    means, cameras = scene["means"], scene["cameras"]
    assert means is not None and cameras is not None
    device, views, count = means.device, len(cameras), len(means)
    params = splat_ops.make_params(scene, size, *rest)
    pictures = splat_ops.empty_pictures(means, views, *size, params.extra_count, keep)
    state = splat_ops.empty_state(means, views, *size)
    depths = means.new_empty((views, count), dtype=torch.int32)
    params.point(**splat_ops.present(pictures), **state, keys=depths)
    _launch("dl_splat_project", params, device, views * count, 128)
    order = torch.sort(depths, dim=1, stable=True).indices
    ends = state["offsets"].gather(1, order).flatten().cumsum(0, dtype=torch.int64)
    total = ends[-1] if len(ends) else ends.sum()
    capacity = room.room("splat", (views, *size), views * count, total, exact=not keep)
    if capacity >= 2**31:
        raise ValueError(f"splat: {capacity} pairs of splats and tiles are too many; render fewer or smaller splats")
    lists = splat_ops.empty_pairs(means, capacity, keep)
    params.pair_count = capacity
    params.point(**splat_ops.present(lists))
    if capacity:
        _bin(params, device, order, ends)
    else:
        state["starts"].zero_()
    tiles = views * splat_ops.tiles_per_view(*size)
    for group in range(1 + -(-params.extra_count // 7)):
        _launch("dl_splat_forward", params, device, tiles * PIXELS, PIXELS, ctypes.c_int(group))
    return (*pictures.values(), *state.values(), *lists.values())


def _bin(params: Params, device: torch.device, order: Tensor, ends: Tensor) -> None:
    """Fills the lists: pairs in order of their tiles, front to back within a tile. As `order` goes by depth already,
    the keys are tiles alone, of 16 bits where that is enough: a quarter of the passes of a sort by both."""
    capacity, tiles = params.pair_count, params.views * splat_ops.tiles_per_view(params.height, params.width)
    wide = tiles > MOST_NARROW
    keys = torch.full((capacity,), tiles, dtype=torch.int32 if wide else torch.int16, device=device)
    owner = torch.empty((capacity,), dtype=torch.int32, device=device)
    arrays = [ctypes.c_void_p(t.data_ptr()) for t in (order, ends, keys, owner)]
    as_wide = ctypes.c_int(wide)
    _launch("dl_splat_emit", params, device, params.views * params.count, 128, *arrays[:3], as_wide, arrays[3])
    keys, was = torch.sort(keys, stable=True)
    arrays[:2] = [ctypes.c_void_p(t.data_ptr()) for t in (keys, was)]
    _launch("dl_splat_ranges", params, device, capacity, 256, arrays[0], as_wide, arrays[1], arrays[3])


def backward(params: Params, means: Tensor, pairs: int, views: int, size: tuple[int, int], with_extra: bool) -> None:
    """`params` points to everything but the scratch rows."""
    device = means.device
    rows = means.new_empty((pairs, 16))
    extra_rows = means.new_empty((pairs, params.extra_count if with_extra else 0))
    params.point(rows=rows, extra_rows=extra_rows)
    tiles = views * splat_ops.tiles_per_view(*size)
    seen = means.new_empty((tiles,), dtype=torch.int32)
    where = ctypes.c_void_p(seen.data_ptr())
    for group in range(1 + -(-params.extra_count // 7) if with_extra else 1):
        _launch("dl_splat_backward", params, device, tiles * PIXELS, PIXELS, ctypes.c_int(group), where)
    _launch("dl_splat_gather", params, device, len(means), 128, where)
