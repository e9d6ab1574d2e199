# SPDX-License-Identifier: Apache-2.0
"""`attend`: attention with normed queries and keys in one pass, for answers; what learns keeps to plain products."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build
from cuda_ext.check import check_shape, require
from cuda_ext.modulate import MOST_WIDTH
from cuda_ext.raster import register, run
from cuda_ext.reference import attend as reference

__all__ = ["attend"]

HOST_READS = 0


def attend(
    query: Tensor,  # [B, N, C]
    told: Tensor,  # [B, M, 2 C]
    mask: Tensor | None = None,  # [B, M]
    *,
    heads: int,
    backend: str = "auto",
) -> Tensor:
    """What N queries see of M keys with their values: [B, N, C].

    query    float32 or bfloat16, heads side by side; each head is normed over its numbers, as its keys are
    told     keys, then values, of query's dtype
    mask     float32, added to the scores: 0, or -inf for a key that is not to be seen. One key at least must be
    backend  auto, native or torch

    Not differentiable.
    """
    require(query.dtype in (torch.float32, torch.bfloat16), f"attend: query is {query.dtype}; give float32 or bfloat16")
    check_shape("attend", "query", query, ("B", "N", "C"))
    samples, _, width = query.shape
    check_shape("attend", "told", told, (samples, "M", 2 * width))
    require(told.dtype == query.dtype, f"attend: told is {told.dtype}, query is {query.dtype}")
    require(heads >= 1 and width % heads == 0, f"attend: {heads} heads of {width} numbers")
    require(told.shape[1] >= 1, "attend: there are no keys")
    if mask is not None:
        check_shape("attend", "mask", mask, (samples, told.shape[1]))
        require(mask.dtype == torch.float32, f"attend: mask is {mask.dtype}; give float32")
    fits = width // heads <= MOST_WIDTH
    native = backends.choose("attend", backend, query, half=True) == "native" and (fits or backend == "native")
    require(fits or not native, f"attend: native heads are at most {MOST_WIDTH} wide, got {width // heads}")
    call = torch.ops.dreamlab.attend if native else reference.attend
    return call(query, told, mask, heads)


class Params(ctypes.Structure):
    """`AttendParams` of csrc/attend_cpu.cpp, field by field."""

    _fields_ = [
        ("query", ctypes.c_void_p),
        ("told", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("samples", ctypes.c_int64),
        ("queries", ctypes.c_int64),
        ("keys", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("half", ctypes.c_int32),
    ]


def _attend(query: Tensor, told: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    query, told = query.contiguous(), told.contiguous()
    mask = None if mask is None else mask.contiguous()
    out = torch.empty_like(query)
    pointers = [build.pointer(t) for t in (query, told, mask)]
    sizes = (len(query), query.shape[1], told.shape[1], heads, query.shape[2] // heads)
    run("attend", "dl_attend", Params(*pointers, *sizes, query.dtype == torch.bfloat16), [out], 0)
    return out


register(
    (
        (
            "attend",
            "(Tensor query, Tensor told, Tensor? mask, int heads) -> Tensor",
            _attend,
            lambda query, *_: query.new_empty(query.shape),
        ),
    )
)
