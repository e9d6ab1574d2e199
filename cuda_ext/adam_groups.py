# SPDX-License-Identifier: Apache-2.0
"""`adam_groups`: one Adam step of several tensors, left out as a whole when one of their gradients is not finite."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext import adam as single
from cuda_ext import backend as backends
from cuda_ext import build, nvrtc
from cuda_ext.check import check_alike, check_shape, require

__all__ = ["Group", "adam_groups"]

HOST_READS = 0  # of a call on CUDA
TENSORS = 32  # `kAdamTensors` of csrc/adam.h
CHUNK = 1024  # `kAdamChunk`


class Group(NamedTuple):
    """As the arguments of `adam`; `visible` is a mask."""

    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    lr: float
    visible: Tensor | None = None


@torch.no_grad()
def adam_groups(
    groups: Sequence[Group],
    healthy: Tensor,  # [] bool
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    backend: str = "auto",
) -> Tensor:  # [] bool
    """Step every group in place as `adam` does if `healthy` and every number of every gradient is finite.

    Returns whether it stepped, on the device. On CUDA that takes two launches for up to 32 groups, however many there
    are, and the host reads nothing.
    """
    for i, group in enumerate(groups):
        _check(f"adam_groups, group {i}", group, healthy)
    if not groups:
        return healthy
    if backends.choose("adam", backend, groups[0].param) == "native" and healthy.is_cuda:
        columns = list(zip(*groups, strict=True))
        grads = [grad.contiguous() for grad in columns[1]]
        masks = [mask if mask is None else mask.contiguous() for mask in columns[6]]
        lists = (list(columns[0]), grads, *(list(column) for column in columns[2:5]), masks)
        return torch.ops.dreamlab.adam_groups(*lists, healthy, list(columns[5]), *betas, eps)
    for group in groups:
        healthy = healthy & torch.isfinite(group.grad).all()
    skip = ~healthy
    for group in groups:
        single.adam(*group[:5], lr=group.lr, betas=betas, eps=eps, visible=group.visible, skip=skip, backend=backend)
    return healthy


def _check(where: str, group: Group, healthy: Tensor) -> None:
    param, grad, first, second, step = group[:5]
    check_alike(where, param=param, grad=grad, exp_avg=first, exp_avg_sq=second)
    for name, tensor in (("grad", grad), ("exp_avg", first), ("exp_avg_sq", second)):
        check_shape(where, name, tensor, tuple(param.shape))
    for name, tensor in (("param", param), ("exp_avg", first), ("exp_avg_sq", second)):
        require(tensor.is_contiguous(), f"{where}: {name} is changed in place and must be contiguous")
    require(param.ndim >= 1 and step.dtype == torch.int64, f"{where}: param needs rows and step must be int64")
    require(healthy.dtype == torch.bool and healthy.device == param.device, f"{where}: healthy must be bool, beside it")
    if group.visible is not None:
        check_shape(where, "visible", group.visible, (len(param),))
        require(group.visible.dtype == torch.bool, f"{where}: visible must be a mask, got {group.visible.dtype}")


class _Tensor(ctypes.Structure):
    """`AdamTensor` of csrc/adam.h, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("param", "grad", "exp_avg", "exp_avg_sq", "step", "visible")),
        ("count", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("lr", ctypes.c_float),
        ("first", ctypes.c_int32),
    ]


class _Groups(ctypes.Structure):
    """`AdamGroups` of csrc/adam.h, field by field."""

    _fields_ = [
        ("tensor", _Tensor * TENSORS),
        ("tensors", ctypes.c_int32),
        ("blocks", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("decay1", "decay2", "keep2", "log_beta1", "log_beta2", "eps")),
        ("healthy", ctypes.c_void_p),
        ("done", ctypes.c_void_p),
    ]


def _adam_groups(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    visibles: list[Tensor | None],
    healthy: Tensor,
    lrs: list[float],
    beta1: float,
    beta2: float,
    eps: float,
) -> Tensor:
    stepped = healthy.clone()
    done = torch.empty((), dtype=torch.int32, device=healthy.device)
    logs = [math.log(b) if b > 0 else -math.inf for b in (beta1, beta2)]
    rows = list(zip(params, grads, exp_avgs, exp_avg_sqs, steps, visibles, lrs, strict=True))
    launches = []
    for start in range(0, len(rows), TENSORS):
        table = _Groups(tensors=len(rows[start : start + TENSORS]))
        for i, (*tensors, lr) in enumerate(rows[start : start + TENSORS]):
            count, columns = tensors[0].numel(), tensors[0].numel() // max(len(tensors[0]), 1)
            table.tensor[i] = _Tensor(*map(build.pointer, tensors), count, columns, lr, table.blocks)
            table.blocks += -(-count // CHUNK)
        table.blocks = max(table.blocks, 1)  # who advances the counts
        table.decay1, table.decay2, table.keep2 = 1 - beta1, 1 - beta2, beta2
        table.log_beta1, table.log_beta2, table.eps = *logs, eps
        table.healthy, table.done = build.pointer(stepped), build.pointer(done)
        launches.append(table)
    for kernel in ("dl_adam_finite", "dl_adam_groups"):
        for table in launches:
            nvrtc.launch("adam", kernel, healthy.device, (table.blocks, 1, 1), (256, 1, 1), [table])
    return stepped


torch.library.define(
    "dreamlab::adam_groups",
    "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps, "
    "Tensor?[] visibles, Tensor healthy, float[] lrs, float beta1, float beta2, float eps) -> Tensor",
)
torch.library.impl("dreamlab::adam_groups", "cuda", _adam_groups)
torch.library.register_fake("dreamlab::adam_groups", lambda *given: torch.empty_like(given[6]))
