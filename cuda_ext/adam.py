# SPDX-License-Identifier: Apache-2.0
"""`adam`: an Adam step in place that touches the visible rows only."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, nvrtc
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.reference import adam as reference

__all__ = ["adam"]

HOST_READS = 0  # of a call on CUDA


@torch.no_grad()
def adam(
    param: Tensor,  # [R, ...]
    grad: Tensor,  # like param
    exp_avg: Tensor,  # like param
    exp_avg_sq: Tensor,  # like param
    step: Tensor,  # [] int64
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    visible: Tensor | None = None,
    skip: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """One Adam step on the rows of `param` that `visible` names; everything is changed in place.

    exp_avg, exp_avg_sq  the two moments, zeros at the start. A row that is not visible keeps its moments: they do
                         not decay while it is out of sight
    step                 steps taken so far, one count for all rows: a row that was rarely visible is corrected for
                         the bias as if it had been visible always (the convention of selective Adam). Advanced by 1
    visible              [R] bool, or indices [K] int64 without repetition; None means all rows
    skip                 [] number on the device; not 0 makes the call a no-op (also for `step`) without the host
                         ever reading it: how a step with a non-finite gradient is dropped
    backend              auto, native or torch

    Parameter groups with their own learning rates are separate calls. Nothing here is differentiable.
    """
    check_alike("adam", param=param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    for name, tensor in (("grad", grad), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
        check_shape("adam", name, tensor, tuple(param.shape))
    for name, tensor in (("param", param), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
        require(tensor.is_contiguous(), f"adam: {name} is changed in place and must be contiguous")
    require(param.ndim >= 1 and step.dtype == torch.int64, "adam: param needs rows and step must be an int64 scalar")
    if visible is not None and visible.dtype != torch.bool:
        visible = torch.zeros(len(param), dtype=torch.bool, device=param.device).index_fill_(0, visible, True)
    if visible is not None:
        check_shape("adam", "visible", visible, (len(param),))
        visible = visible.contiguous()
    if skip is not None:
        skip = (skip != 0).reshape(())
    if backends.choose("adam", backend, param) == "native":
        op = torch.ops.dreamlab.adam
        op(param, grad.contiguous(), exp_avg, exp_avg_sq, step, visible, skip, lr, betas[0], betas[1], eps)
    else:
        reference.adam(param, grad, exp_avg, exp_avg_sq, step, lr=lr, betas=betas, eps=eps, visible=visible, skip=skip)
    step.add_(1 if skip is None else (~skip).to(torch.int64))


class _Params(ctypes.Structure):
    """`AdamParams` of csrc/adam.h, field by field."""

    _fields_ = [
        ("lr", ctypes.c_float),
        ("decay1", ctypes.c_float),
        ("decay2", ctypes.c_float),
        ("keep2", ctypes.c_float),
        ("log_beta1", ctypes.c_float),
        ("log_beta2", ctypes.c_float),
        ("eps", ctypes.c_float),
        ("step", ctypes.c_void_p),
        ("skip", ctypes.c_void_p),
        ("visible", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    ]


def _params(
    param: Tensor,
    step: Tensor,
    visible: Tensor | None,
    skip: Tensor | None,
    lr: float,
    b1: float,
    b2: float,
    eps: float,
) -> _Params:
    columns = param.numel() // max(len(param), 1)
    p = build.pointer
    logs = [math.log(b) if b > 0 else -math.inf for b in (b1, b2)]
    return _Params(lr, 1 - b1, 1 - b2, b2, *logs, eps, p(step), p(skip), p(visible), len(param), columns)


def _adam(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    visible: Tensor | None,
    skip: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    params = _params(param, step, visible, skip, lr, beta1, beta2, eps)
    buffers = [ctypes.c_void_p(t.data_ptr()) for t in (param, grad, exp_avg, exp_avg_sq)]
    if param.is_cuda:
        grid = ((param.numel() + 255) // 256, 1, 1)
        nvrtc.launch("adam", "dl_adam", param.device, grid, (256, 1, 1), [*buffers, params])
        return
    lib = build.library("adam")
    assert lib is not None
    lib.dl_adam(*buffers, ctypes.byref(params), build.threads())


torch.library.define(
    "dreamlab::adam",
    "(Tensor(a!) param, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor step, Tensor? visible, "
    "Tensor? skip, float lr, float beta1, float beta2, float eps) -> ()",
)
torch.library.impl("dreamlab::adam", "cpu", _adam)
torch.library.impl("dreamlab::adam", "cuda", _adam)
torch.library.register_fake("dreamlab::adam", lambda *_: None)
