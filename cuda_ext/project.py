# SPDX-License-Identifier: Apache-2.0
"""`project`: a layer of a network over maps in one pass, for answers; what learns keeps to torch's own layers."""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build
from cuda_ext.check import require
from cuda_ext.modulate import MOST_WIDTH, even_rows
from cuda_ext.modulate import Params as ModulateParams
from cuda_ext.raster import register, run
from cuda_ext.reference import project as reference

__all__ = ["Packed", "pack", "project", "swift"]

HOST_READS = 0
LANES = 16
ACTS = ("none", "relu2", "silu")


@dataclass(frozen=True)
class Packed:
    """A layer's weights as the product reads them: vectors of 16 outputs, of bfloat16 in pairs of inputs."""

    weight: Tensor  # [vectors, taps, steps, 16, numbers]
    bias: Tensor | None  # [outputs] float32
    outputs: int
    inputs: int


def pack(weight: Tensor, bias: Tensor | None) -> Packed:
    """[outputs, inputs] or [outputs, inputs, 3, 3]; the missing rows of the last vector are zeros."""
    require(weight.dim() == 2 or weight.shape[2:] == (3, 3), f"project: weight is {list(weight.shape)}")
    numbers = 2 if weight.dtype == torch.bfloat16 else 1
    outputs, inputs = weight.shape[:2]
    rows = weight.detach().reshape(outputs, inputs, -1).permute(2, 0, 1)  # [taps, outputs, inputs]
    rows = F.pad(rows, (0, -inputs % numbers, 0, -outputs % LANES))
    parts = rows.reshape(len(rows), -1, LANES, rows.shape[2] // numbers, numbers)
    bias = None if bias is None else bias.detach().float().contiguous()
    return Packed(parts.permute(1, 0, 3, 2, 4).contiguous(), bias, outputs, inputs)


def project(
    x: Tensor,  # [B, ..., C]; [B, H, W, C] where neighbours or children are meant
    layer: Packed,
    *,
    told: Tensor | None = None,  # [B, 2 C]
    normed: bool = False,
    silu: bool = False,
    act: str = "none",
    gate: Tensor | None = None,  # [B, outputs]
    residual: Tensor | None = None,  # like the result
    step: int = 1,
    children: bool = False,
    wide: bool = False,
    backend: str = "auto",
) -> Tensor:
    """residual + gate act(W m(x) + bias): [B, ..., outputs].

    x, told, normed, silu  m is what `modulate` makes of x
    layer     W with its bias, by `pack`; of 3 x 3 neighbours with zeros around the map, or of each row by itself
    act       none, relu2 (max(u, 0)^2) or silu
    step      1, or 2: a result at every other place of a 3 x 3 product
    children  outputs are those of four children of each place, in reading order: [B, 2 H, 2 W, outputs / 4]
    wide      the result is float32 whatever x is
    backend   auto, native or torch

    Not differentiable: with gradients compose it of `modulate` and torch's products.
    """
    if complaint := _complaint(x, layer, told, act, gate, residual, step, children, wide):
        raise ValueError(f"project: {complaint}")
    fits = layer.inputs <= MOST_WIDTH
    native = backends.choose("project", backend, x, half=True) == "native" and (fits or backend == "native")
    require(fits or not native, "project: native rows are at most 1024 wide")
    call = torch.ops.dreamlab.project if native else reference.project
    how = (layer.outputs, step, normed, silu, act, children, wide)
    return call(x, layer.weight, layer.bias, told, gate, residual, *how)


def _complaint(
    x: Tensor, layer: Packed, told: Tensor | None, act: str, gate: Tensor | None, residual: Tensor | None,
    step: int, children: bool, wide: bool,
) -> str:  # fmt: skip
    """What is wrong with the inputs; said only where something is, for layers are called by the thousand."""
    taps, dtype = layer.weight.shape[1], x.dtype
    if dtype not in (torch.float32, torch.bfloat16):
        return f"x is {dtype}; give float32 or bfloat16"
    if x.dim() < 2 or x.shape[-1] != layer.inputs:
        return f"x is {list(x.shape)} for {layer.inputs} inputs"
    if layer.weight.dtype != dtype:
        return f"the layer is packed as {layer.weight.dtype}, x is {dtype}"
    if act not in ACTS:
        return f"act {act!r} is not one of {', '.join(ACTS)}"
    if step != 1 and (step != 2 or taps == 1):
        return f"step is 1, or 2 over neighbours; got {step}"
    if x.dim() != 4 and (taps > 1 or children):
        return f"x must be [B, H, W, C], got {list(x.shape)}"
    if step == 2 and (x.shape[1] % 2 or x.shape[2] % 2):
        return f"{list(x.shape)} in steps of 2"
    if children and layer.outputs % (4 * LANES):
        return f"{layer.outputs} outputs of four children"
    like = _shape(x, layer.outputs, step, children)
    given = (
        ("told", told, (len(x), 2 * layer.inputs)),
        ("gate", gate, (len(x), layer.outputs)),
        ("residual", residual, like),
    )
    for name, tensor, shape in given:
        if tensor is not None:
            if tuple(tensor.shape) != shape:
                return f"{name} must be {list(shape)}, got {list(tensor.shape)}"
            if tensor.dtype != (torch.float32 if wide and name == "residual" else dtype):
                return f"{name} is {tensor.dtype}, x is {dtype}"
    return ""


@functools.cache
def swift() -> bool:
    """Whether this machine multiplies pairs of bfloat16, without which the product is slower than torch's."""
    library = build.library("project")
    return library is not None and bool(library.dl_project_fast())


class Params(ctypes.Structure):
    """`ProjectParams` of csrc/project_cpu.cpp, field by field."""

    _fields_ = [
        ("in", ModulateParams),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("gate", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("gate_stride", ctypes.c_int64),
        ("taps", ctypes.c_int32),
        ("step", ctypes.c_int32),
        ("act", ctypes.c_int32),
        ("children", ctypes.c_int32),
        ("wide_out", ctypes.c_int32),
    ]


def _shape(x: Tensor, outputs: int, step: int, children: bool) -> tuple[int, ...]:
    if children:
        return (len(x), 2 * x.shape[1], 2 * x.shape[2], outputs // 4)
    if step == 2:
        return (len(x), x.shape[1] // 2, x.shape[2] // 2, outputs)
    return (*x.shape[:-1], outputs)


def _like(
    x: Tensor, weight: Tensor, bias: Tensor | None, told: Tensor | None, gate: Tensor | None, residual: Tensor | None,
    outputs: int, step: int, normed: bool, silu: bool, act: str, children: bool, wide: bool,
) -> Tensor:  # fmt: skip
    return x.new_empty(_shape(x, outputs, step, children), dtype=torch.float32 if wide else x.dtype)


def _project(
    x: Tensor, weight: Tensor, bias: Tensor | None, told: Tensor | None, gate: Tensor | None, residual: Tensor | None,
    outputs: int, step: int, normed: bool, silu: bool, act: str, children: bool, wide: bool,
) -> Tensor:  # fmt: skip
    out = _like(x, weight, bias, told, gate, residual, outputs, step, normed, silu, act, children, wide)
    x, stride = even_rows(x)
    told, gate = (t if t is None or t.stride(-1) == 1 else t.contiguous() for t in (told, gate))
    residual = None if residual is None else residual.contiguous()
    samples, width = len(x), x.shape[-1]
    rows = math.prod(x.shape[1:-1])
    height, across = x.shape[1:3] if x.dim() == 4 else (rows, 1)
    apart, gates = (0 if t is None else t.stride(0) for t in (told, gate))
    place = build.address
    given = (place(x), place(told), samples, rows, 1, width, stride, apart, x.dtype == torch.bfloat16, normed, silu)
    layer = (place(weight), place(bias), place(gate), place(residual))
    how = (height, across, outputs, gates, weight.shape[1], step, ACTS.index(act), children, wide)
    run("project", "dl_project", Params(ModulateParams(*given), *layer, *how), [out], 0)
    return out


INPUTS = "Tensor x, Tensor weight, Tensor? bias, Tensor? told, Tensor? gate, Tensor? residual"
HOW = "int outputs, int step, bool normed, bool silu, str act, bool children, bool wide"
register((("project", f"({INPUTS}, {HOW}) -> Tensor", _project, _like),))
