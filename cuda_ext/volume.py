# SPDX-License-Identifier: Apache-2.0
"""`volume`: what rays meet in dense grids of features."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.context import Context, Inputs
from cuda_ext.raster import register, run, sum_buffer
from cuda_ext.reference import volume as reference

__all__ = ["volume"]

HOST_READS = 0  # on CUDA, both ways

MAX_SAMPLES = 64  # kMaxSamples of csrc/volume.h


def volume(
    grid: Tensor,  # [G, D, H, W, C]
    row: Tensor,  # [B]
    near: Tensor,  # [B, N, 3]
    direction: Tensor,  # [B, N, 3]
    *,
    samples: int,
    reach: float = 1.0,
    shift: float = 0.0,
    gain: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Features where N rays of B views end in one of G grids, and where that is: [B, N, C + 1].

    grid       over the cube of half edge `reach` about the origin, indexed z, y, x; channel 0 is density before its
               softplus, the others are features
    row        int64: which grid each view looks through. Checked on the CPU; on CUDA, where a look would wait, a view
               that names a grid that is not there sees nothing
    near       the point of each ray that is nearest to the origin
    direction  unit vectors
    samples    along each ray, evenly over [-reach, reach] about `near`; at most 64
    shift      density is softplus(channel 0 - shift)
    gain       optical depth of one sample is gain x density
    backend    auto, native or torch

    The last two of the results: how much of the ray ends inside, and how far before `near`. Differentiable: grid.
    First derivatives only.
    """
    check_shape("volume", "grid", grid, ("G", "D", "H", "W", "C"))
    check_shape("volume", "row", row, ("B",))
    check_shape("volume", "near", near, (len(row), "N", 3))
    check_shape("volume", "direction", direction, tuple(near.shape))
    check_alike("volume", grid=grid, near=near, direction=direction)
    require(
        min(grid.shape[1:4]) >= 1 and grid.shape[4] >= 1, f"volume: grid has no cells or channels: {list(grid.shape)}"
    )
    require(1 <= samples <= MAX_SAMPLES, f"volume: samples is 1 to {MAX_SAMPLES}, got {samples}")
    require(reach > 0, f"volume: reach must be positive, got {reach}")
    require(row.dtype == torch.int64 and row.device == grid.device, f"volume: row is {row.dtype} on {row.device}")
    if row.device.type == "cpu" and row.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in row.aminmax())
        require(low >= 0 and high < len(grid), f"volume: row names grids {low}..{high}, there are {len(grid)}")
    if backends.choose("volume", backend, grid) == "torch":
        return reference.volume(grid, row, near.detach(), direction.detach(), samples, reach, shift, gain)
    rays = (near.detach().contiguous(), direction.detach().contiguous())
    return torch.ops.dreamlab.volume(grid.contiguous(), row.contiguous(), *rays, samples, reach, shift, gain)


class Params(ctypes.Structure):
    """`VolumeParams` of csrc/volume.h, field by field."""

    _fields_ = [
        ("grid", ctypes.c_void_p),
        ("row", ctypes.c_void_p),
        ("near", ctypes.c_void_p),
        ("direction", ctypes.c_void_p),
        ("grids", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("views", ctypes.c_int64),
        ("rays", ctypes.c_int64),
        ("samples", ctypes.c_int32),
        ("reach", ctypes.c_float),
        ("shift", ctypes.c_float),
        ("gain", ctypes.c_float),
    ]


def _params(grid: Tensor, row: Tensor, near: Tensor, direction: Tensor, *how: object) -> Params:
    pointers = [build.pointer(t) for t in (grid, row, near, direction)]
    return Params(*pointers, *grid.shape, *near.shape[:2], *how)


def _like(grid: Tensor, row: Tensor, near: Tensor, *_: object) -> Tensor:
    return near.new_empty(*near.shape[:2], grid.shape[4] + 1)


def _threads(near: Tensor) -> int:
    """A warp per ray on CUDA."""
    return near.numel() // 3 * (32 if near.is_cuda else 1)


def _volume(grid: Tensor, row: Tensor, near: Tensor, direction: Tensor, *how: object) -> Tensor:
    out = _like(grid, row, near)
    run("volume", "dl_volume", _params(grid, row, near, direction, *how), [out], _threads(near))
    return out


def _volume_backward(
    grid: Tensor, row: Tensor, near: Tensor, direction: Tensor, samples: int, reach: float, shift: float, gain: float,
    grad: Tensor,
) -> Tensor:  # fmt: skip
    out = sum_buffer(grid.shape, grid)
    params = _params(grid, row, near, direction, samples, reach, shift, gain)
    run("volume", "dl_volume_backward", params, [grad, out], _threads(near))
    return out


def _save(ctx: Context, inputs: Inputs, output: Inputs | Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.how = inputs[4:]


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_grid = torch.ops.dreamlab.volume_backward(*ctx.saved_tensors, *ctx.how, grad.contiguous())
    return grad_grid, *7 * [None]


INPUTS = "Tensor grid, Tensor row, Tensor near, Tensor direction, int samples, float reach, float shift, float gain"
register(
    (
        ("volume", f"({INPUTS}) -> Tensor", _volume, _like),
        (
            "volume_backward",
            f"({INPUTS}, Tensor grad) -> Tensor",
            _volume_backward,
            lambda grid, *_: torch.empty_like(grid),
        ),
    )
)
torch.library.register_autograd("dreamlab::volume", _backward, setup_context=_save)
