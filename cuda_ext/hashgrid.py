# SPDX-License-Identifier: Apache-2.0
"""`encode`: multiresolution hash encoding of positions, twice differentiable.

A grid of layout tcnn has tiny-cuda-nn's levels and its table; that package can then stand in (`hashgrid_tcnn`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, hashgrid_tcnn, nvrtc
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.context import Context, Inputs
from cuda_ext.reference import hashgrid as reference
from cuda_ext.reference.hashgrid import LAYOUTS, HashGrid

__all__ = ["LAYOUTS", "HashGrid", "encode", "position_gradient"]

HOST_READS = 0  # of either on CUDA, and of their derivatives


def encode(
    positions: Tensor,  # [N, 3]
    table: Tensor,  # [grid.rows, grid.features]
    grid: HashGrid,
    *,
    active_levels: int | None = None,
    backend: str = "auto",
) -> Tensor:  # [N, grid.width]
    """Features of positions in the unit cube, interpolated at every level of `grid` and laid side by side.

    positions      in [0, 1]; outside it they are clamped and receive no gradient. NaN gives NaN features
    table          learnable rows of all levels (`grid.init_table()`)
    active_levels  levels from this one on are left out: their features are 0 and their rows receive no gradient;
                   raise it during training to go from coarse to fine. None means all
    backend        auto, native, torch, or of layout tcnn tinycudann

    Differentiable in positions and table, twice: a loss on gradients of a field (eikonal, normals) reaches both.
    With linear interpolation the gradient in positions jumps between cells; `HashGrid(smoothstep=True)` is smooth.
    On the CPU the same inputs give the same bits for any number of threads; on CUDA the table's gradient is summed with
    atomics and its last bits vary.
    The equations are in `cuda_ext.reference.hashgrid`.
    """
    active = _check(positions, table, grid, active_levels)
    chosen = _choose(backend, positions, grid)
    if chosen != "native":
        other = reference.encode if chosen == "torch" else hashgrid_tcnn.encode
        return other(positions, table, grid, active)
    return torch.ops.dreamlab.hashgrid_encode(positions.contiguous(), table.contiguous(), *_layout(grid, active))


def position_gradient(
    positions: Tensor,  # [N, 3]
    table: Tensor,  # [grid.rows, grid.features]
    grad: Tensor,  # [N, grid.width]
    grid: HashGrid,
    *,
    active_levels: int | None = None,
    backend: str = "auto",
) -> Tensor:  # [N, 3]
    """Gradient in positions of (encode(positions) . grad), the cheap way to analytic normals.

    With `features = encode(points, table, grid)` and `grad = autograd.grad(density.sum(), features, create_graph=True)`
    this is the gradient of the density in space without a gradient pass through the table.
    Differentiable once, in positions, table and grad.
    """
    active = _check(positions, table, grid, active_levels)
    check_shape("hashgrid", "grad", grad, (positions.shape[0], grid.width))
    check_alike("hashgrid", positions=positions, grad=grad)
    chosen = _choose(backend, positions, grid)
    if chosen != "native":
        other = reference.position_gradient if chosen == "torch" else hashgrid_tcnn.position_gradient
        return other(positions, table, grad, grid, active)
    tensors = (positions.contiguous(), table.contiguous(), grad.contiguous())
    return torch.ops.dreamlab.hashgrid_position_gradient(*tensors, *_layout(grid, active))


def _check(positions: Tensor, table: Tensor, grid: HashGrid, active_levels: int | None) -> int:
    check_shape("hashgrid", "positions", positions, ("N", 3))
    check_shape("hashgrid", "table", table, (grid.rows, grid.features))
    check_alike("hashgrid", positions=positions, table=table)
    active = grid.levels if active_levels is None else active_levels
    require(1 <= active <= grid.levels, f"hashgrid: active_levels must be in 1..{grid.levels}, got {active}")
    return active


def _choose(backend: str, like: Tensor, grid: HashGrid) -> str:
    own = backend == "tinycudann" and grid.layout == "own"
    require(not own, "hashgrid: tinycudann has another table than layout own; use a grid of layout: tcnn")
    return backends.choose("hashgrid", backend, like)


# What follows are the torch ops. Each takes the grid as (vertices per axis, first rows and scales of its levels, shift,
# active levels, smoothstep):
#   encode(x, T) = y                          linear in T
#   position_gradient(x, T, g) = dy/dx . g    linear in T and g
#   table_gradient(x, g) = dy/dT . g          linear in g
# and with a direction u (a cotangent of the positions) the derivative of encode and table_gradient along u, and of
# position_gradient along u with respect to the positions. The first three are closed under differentiation.
Layout = tuple[list[int], list[int], list[float], float, int, bool]
Op = Callable[..., object]
_LAYOUT = "int[] sides, int[] offsets, float[] scales, float shift, int active, bool smooth"


def _layout(grid: HashGrid, active: int) -> Layout:
    return grid.sides, grid.offsets, grid.scales, grid.shift, active, grid.smoothstep


class _Params(ctypes.Structure):
    """`GridParams` of csrc/hashgrid.h, field by field."""

    _fields_ = [
        ("offsets", ctypes.c_int64 * 33),
        ("sides", ctypes.c_int32 * 32),
        ("scales", ctypes.c_float * 32),
        ("shift", ctypes.c_float),
        ("levels", ctypes.c_int32),
        ("active", ctypes.c_int32),
        ("features", ctypes.c_int32),
        ("smooth", ctypes.c_int32),
        ("positions", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("grad", ctypes.c_void_p),
        ("direction", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("count", ctypes.c_int64),
    ]


def _params(layout: Layout, features: int, positions: Tensor, *rest: Tensor | None) -> _Params:
    """`rest`: table, gradient, direction and output."""
    sides, offsets, scales, shift, active, smooth = layout
    return _Params(
        (ctypes.c_int64 * 33)(*offsets), (ctypes.c_int32 * 32)(*sides), (ctypes.c_float * 32)(*scales), shift,
        len(sides), active, features, smooth, *map(build.pointer, (positions, *rest)), len(positions),
    )  # fmt: skip


def _run(
    name: str,
    out: Tensor,
    features: int,
    layout: Layout,
    positions: Tensor,
    table: Tensor | None = None,
    grad: Tensor | None = None,
    direction: Tensor | None = None,
) -> Tensor:
    """Call the kernel `name` on the inputs' device; it fills `out`."""
    if out.is_cuda:
        table, grad = _aligned(table), _aligned(grad)
    params = _params(layout, features, positions, table, grad, direction, out)
    if out.is_cuda:
        parts = 1 if name == "position_gradient" else thread_parts(len(layout[0]), features)
        blocks = ((len(positions) + 127) // 128, parts, 1)
        nvrtc.launch("hashgrid", f"dl_hashgrid_{name}", out.device, blocks, (128, 1, 1), [params])
        return out
    lib = build.library("hashgrid")
    assert lib is not None
    if getattr(lib, f"dl_hashgrid_{name}")(ctypes.byref(params), build.threads()):
        raise MemoryError(f"hashgrid: no memory for the scratch space of {len(positions)} positions")
    return out


def thread_parts(levels: int, features: int) -> int:
    """How many threads of the CUDA kernels share a sample: `kPart` features each."""
    return -(-levels * features // 8)


def _aligned(tensor: Tensor | None) -> Tensor | None:
    """The CUDA kernels read vectors of 16 bytes; a view may begin elsewhere."""
    return tensor if tensor is None or tensor.data_ptr() % 16 == 0 else tensor.clone()


def _encode(positions: Tensor, table: Tensor, *layout: *Layout, direction: Tensor | None = None) -> Tensor:
    features = table.shape[1]
    out = table.new_empty(len(positions), len(layout[0]) * features)
    return _run("encode", out, features, layout, positions, table, direction=direction)


def _position_gradient(
    positions: Tensor, table: Tensor, grad: Tensor, *layout: *Layout, direction: Tensor | None = None
) -> Tensor:
    out = torch.empty_like(positions)
    return _run("position_gradient", out, table.shape[1], layout, positions, table, grad, direction)


def _table_gradient(positions: Tensor, grad: Tensor, *layout: *Layout, direction: Tensor | None = None) -> Tensor:
    features = grad.shape[1] // len(layout[0])
    like = grad.new_zeros if grad.is_cuda else grad.new_empty  # the CPU launcher zeroes, a level per thread
    out = like(layout[1][-1], features)
    return _run("table_gradient", out, features, layout, positions, None, grad, direction)


def _save(ctx: Context, inputs: Inputs, output: Tensor) -> None:
    del output
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.layout = inputs[len(tensors) :]


def _encode_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    ops, (positions, table), layout = torch.ops.dreamlab, ctx.saved_tensors, ctx.layout
    grad = grad.contiguous()
    to_positions, to_table = ctx.needs_input_grad[:2]
    return (
        ops.hashgrid_position_gradient(positions, table, grad, *layout) if to_positions else None,
        ops.hashgrid_table_gradient(positions, grad, *layout) if to_table else None,
        *[None] * 6,
    )


def _table_gradient_backward(ctx: Context, turn: Tensor) -> tuple[Tensor | None, ...]:
    ops, (positions, grad), layout = torch.ops.dreamlab, ctx.saved_tensors, ctx.layout
    turn = turn.contiguous()
    to_positions, to_grad = ctx.needs_input_grad[:2]
    return (
        ops.hashgrid_position_gradient(positions, turn, grad, *layout) if to_positions else None,
        ops.hashgrid_encode(positions, turn, *layout) if to_grad else None,
        *[None] * 6,
    )


def _position_gradient_backward(ctx: Context, turn: Tensor) -> tuple[Tensor | None, ...]:
    ops, (positions, table, grad), layout = torch.ops.dreamlab, ctx.saved_tensors, ctx.layout
    turn = turn.contiguous()
    to_positions, to_table, to_grad = ctx.needs_input_grad[:3]
    return (
        ops.hashgrid_position_turn(turn, positions, table, grad, *layout) if to_positions else None,
        ops.hashgrid_table_turn(turn, positions, grad, *layout) if to_table else None,
        ops.hashgrid_encode_turn(turn, positions, table, *layout) if to_grad else None,
        *[None] * 6,
    )


def _fake_features(positions: Tensor, table: Tensor, sides: list[int], *_: object) -> Tensor:
    return table.new_empty(positions.shape[0], len(sides) * table.shape[1])


def _fake_table(positions: Tensor, grad: Tensor, sides: list[int], offsets: list[int], *_: object) -> Tensor:
    return grad.new_empty(offsets[-1], grad.shape[1] // len(sides))


def _define(name: str, tensors: str, kernel: Op, fake: Op, backward: Op | None = None) -> None:
    op = f"dreamlab::hashgrid_{name}"
    arguments = ", ".join(f"Tensor {tensor}" for tensor in tensors.split())
    torch.library.define(op, f"({arguments}, {_LAYOUT}) -> Tensor")
    for device in ("CPU", "CUDA"):
        torch.library.impl(op, device, kernel)
    torch.library.register_fake(op, fake)
    if backward is not None:
        torch.library.register_autograd(op, backward, setup_context=_save)


_define("encode", "positions table", _encode, _fake_features, _encode_backward)
_define(
    "position_gradient", "positions table grad", _position_gradient,
    lambda positions, *_: torch.empty_like(positions), _position_gradient_backward,
)  # fmt: skip
_define("table_gradient", "positions grad", _table_gradient, _fake_table, _table_gradient_backward)
_define(
    "encode_turn", "direction positions table",
    lambda direction, *rest: _encode(*rest, direction=direction), lambda _, *rest: _fake_features(*rest),
)  # fmt: skip
_define(
    "position_turn", "direction positions table grad",
    lambda direction, *rest: _position_gradient(*rest, direction=direction),
    lambda direction, *_: torch.empty_like(direction),
)  # fmt: skip
_define(
    "table_turn", "direction positions grad",
    lambda direction, *rest: _table_gradient(*rest, direction=direction), lambda _, *rest: _fake_table(*rest),
)  # fmt: skip
