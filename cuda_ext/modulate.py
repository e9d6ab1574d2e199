# SPDX-License-Identifier: Apache-2.0
"""`modulate`: a norm over the last axis, scaled and shifted per sample, and SiLU, in one pass over memory."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build
from cuda_ext.check import check_shape, require
from cuda_ext.context import Context, Inputs
from cuda_ext.raster import register, run
from cuda_ext.reference import modulate as reference

__all__ = ["modulate"]

HOST_READS = 0  # on CUDA, both ways

MOST_WIDTH = 1024  # kMostVectors of csrc/modulate_cpu.cpp
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def modulate(
    x: Tensor,  # [B, ..., C]
    told: Tensor | None = None,  # [B, 2 C]
    *,
    normed: bool = True,
    silu: bool = False,
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """y = act(n (1 + a) + b) over the last axis, like `x`: what a layer makes of a map before its product.

    x        float32 or bfloat16 (the twin alone: float64); sums and functions are of float32 inside
    told     a and b side by side for each sample, of x's dtype; left out they are zero
    normed   n is x less its mean, over its deviation (1e-5 is added to the variance); else x itself
    silu     act is u sigmoid(u), else u itself
    groups   the last axis is so many rows side by side, each with a norm of its own; only without `told`
    backend  auto, native or torch

    Differentiable: x, told. First derivatives only.
    """
    width = x.shape[-1] if x.dim() else 0
    if x.dim() < 2 or x.dtype not in DTYPES or width < 1:
        raise ValueError(f"modulate: x is {list(x.shape)} of {x.dtype}; give [B, ..., C] floats")
    if groups < 1 or width % groups:
        raise ValueError(f"modulate: {groups} groups of {width} numbers")
    if told is not None:
        check_shape("modulate", "told", told, (len(x), 2 * width))
        require(groups == 1, "modulate: told is of one group")
        if told.dtype != x.dtype or told.device != x.device:
            raise ValueError(f"modulate: told is {told.dtype} on {told.device}, x is {x.dtype} on {x.device}")
    if backends.choose("modulate", backend, x, half=True) == "torch" or (backend == "auto" and width > MOST_WIDTH):
        return reference.modulate(x, told, normed, silu, groups)
    require(width <= MOST_WIDTH, f"modulate: native rows are at most {MOST_WIDTH} wide, got {width}")
    return torch.ops.dreamlab.modulate(x, told, normed, silu, groups)


class Params(ctypes.Structure):
    """`ModulateParams` of csrc/modulate.h, field by field."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("told", ctypes.c_void_p),
        ("samples", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("told_stride", ctypes.c_int64),
        ("half", ctypes.c_int32),
        ("normed", ctypes.c_int32),
        ("silu", ctypes.c_int32),
    ]


def even_rows(x: Tensor) -> tuple[Tensor, int]:
    """x, or a dense copy where its rows do not lie evenly apart; and how far apart they are."""
    step, even = x.stride(-2), x.stride(-1) == 1
    for axis in range(x.dim() - 3, -1, -1):
        even &= x.stride(axis) == x.stride(axis + 1) * x.shape[axis + 1]
    return (x, step) if even else (x.contiguous(), x.shape[-1])


def _params(x: Tensor, told: Tensor | None, normed: bool, silu: bool, groups: int) -> tuple[Params, list[Tensor]]:
    """With the tensors that must outlive the call."""
    x, stride = even_rows(x)
    if told is not None and told.stride(-1) != 1:
        told = told.contiguous()
    width, samples = x.shape[-1] // groups, len(x)
    rows = math.prod(x.shape[1:-1])
    apart = 0 if told is None else told.stride(0)
    sizes = (samples, rows, groups, width, stride, apart)
    params = Params(build.address(x), build.address(told), *sizes, x.dtype == torch.bfloat16, normed, silu)
    return params, [t for t in (x, told) if t is not None]


def _dense(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _modulate(x: Tensor, told: Tensor | None, normed: bool, silu: bool, groups: int) -> Tensor:
    out = _dense(x)
    params, _alive = _params(x, told, normed, silu, groups)
    run("modulate", "dl_modulate", params, [out], 32 * (x.numel() // x.shape[-1]))
    return out


def _modulate_backward(
    grad: Tensor, x: Tensor, told: Tensor | None, normed: bool, silu: bool, groups: int
) -> tuple[Tensor, Tensor]:
    grad_x, grad_told = _dense_pair(grad, x, told)
    params, _alive = _params(x, told, normed, silu, groups)
    shared = None if told is None else grad_told
    items = 32 * (x.numel() // x.shape[-1])
    if not x.is_cuda:
        run("modulate", "dl_modulate_backward", params, [grad.contiguous(), grad_x, shared], items)
        return grad_x, grad_told
    moments = x.new_empty(items // 32 * groups, 2, dtype=torch.float32)
    run("modulate", "dl_modulate_backward", params, [grad.contiguous(), grad_x, moments], items)
    if told is not None:
        run("modulate", "dl_modulate_shares", params, [grad.contiguous(), moments, grad_told], told.numel() // 2)
    return grad_x, grad_told


def _dense_pair(grad: Tensor, x: Tensor, told: Tensor | None, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0) if told is None else told.new_empty(told.shape)


def _save(ctx: Context, inputs: Inputs, output: Inputs | Tensor) -> None:
    x, told, *ctx.how = inputs
    ctx.save_for_backward(x, told)


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, told = ctx.saved_tensors
    grad_x, grad_told = torch.ops.dreamlab.modulate_backward(grad, x, told, *ctx.how)
    return grad_x, None if told is None else grad_told, None, None, None


INPUTS = "Tensor x, Tensor? told, bool normed, bool silu, int groups"
register(
    (
        ("modulate", f"({INPUTS}) -> Tensor", _modulate, _dense),
        ("modulate_backward", f"(Tensor grad, {INPUTS}) -> (Tensor, Tensor)", _modulate_backward, _dense_pair),
    )
)
torch.library.register_autograd("dreamlab::modulate", _backward, setup_context=_save)
