# SPDX-License-Identifier: Apache-2.0
"""The torch ops behind `splat`: dreamlab::splat and dreamlab::splat_backward, their launchers, shapes and autograd."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from cuda_ext import build
from cuda_ext.context import Context

TILE = 16
POINTERS_IN = (
    "means", "quats", "scales", "opacities", "colors", "sh", "extra", "cameras", "focal", "principal", "background",
)  # fmt: skip
STATE = ("records", "rects", "offsets", "starts", "pairs", "slots", "masks")
PICTURES = ("rgb", "alpha", "depth", "normal", "extra_image", "radii", "through", "last")
GRADS_IN = ("g_rgb", "g_alpha", "g_depth", "g_normal", "g_extra")
SCRATCH = ("rows", "extra_rows")
GRADS_OUT = (
    "d_means", "d_quats", "d_scales", "d_opacities", "d_colors", "d_sh", "d_extra", "d_probe",
)  # fmt: skip


def _pointers(names: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_void_p) for name in names]


class Options(ctypes.Structure):
    """`SplatOptions` of csrc/splat.h."""

    _fields_ = [("dilation", ctypes.c_float), ("near", ctypes.c_float), ("compensate", ctypes.c_int)]


class Params(ctypes.Structure):
    """`SplatParams` of csrc/splat.h, field by field."""

    _fields_ = [
        *_pointers(POINTERS_IN),
        ("count", ctypes.c_int64),
        ("pair_count", ctypes.c_int64),
        ("views", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("sh_count", ctypes.c_int),
        ("extra_count", ctypes.c_int),
        ("options", Options),
        *_pointers(("records", "rects", "keys", *STATE[2:], *PICTURES, *GRADS_IN, *SCRATCH, *GRADS_OUT)),
    ]

    def point(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            setattr(self, name, build.pointer(tensor))


def make_params(
    scene: dict[str, Tensor | None], size: tuple[int, int], dilation: float, compensate: bool, near: float
) -> Params:
    means, cameras, sh, extra = scene["means"], scene["cameras"], scene["sh"], scene["extra"]
    assert means is not None and cameras is not None
    params = Params(
        count=len(means),
        views=len(cameras),
        height=size[0],
        width=size[1],
        sh_count=0 if sh is None else sh.shape[1],
        extra_count=0 if extra is None else extra.shape[1],
        options=Options(dilation, near, int(compensate)),
    )
    params.point(**scene)
    return params


def tiles_per_view(height: int, width: int) -> int:
    return -(-height // TILE) * -(-width // TILE)


def empty_pictures(
    means: Tensor, views: int, height: int, width: int, channels: int, keep: bool = True
) -> dict[str, Tensor]:
    """`keep` False: without what only backward reads, whose tensors are empty."""

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return means.new_empty(shape, dtype=dtype)

    return {
        "rgb": new(views, height, width, 3),
        "alpha": new(views, height, width, 1),
        "depth": new(views, height, width, 1),
        "normal": new(views, height, width, 3),
        "extra_image": new(views, height, width, channels),
        "radii": new(views, means.shape[0]),
        "through": new(views, height, width) if keep else new(0),
        "last": new(views, height, width, dtype=torch.int32) if keep else new(0, dtype=torch.int32),
    }


def empty_state(means: Tensor, views: int, height: int, width: int) -> dict[str, Tensor]:
    count, tiles = means.shape[0], tiles_per_view(height, width)
    return {
        "records": means.new_empty((views, count, 16)),
        "rects": means.new_empty((views, count, 4), dtype=torch.int16),
        "offsets": means.new_empty((views, count), dtype=torch.int32),
        "starts": means.new_empty((views * tiles + 1,), dtype=torch.int32),
    }


def empty_pairs(means: Tensor, pairs: Any, keep: bool = True) -> dict[str, Tensor]:
    return {
        "pairs": means.new_empty((pairs,), dtype=torch.int32),
        "slots": means.new_empty((pairs if keep else 0,), dtype=torch.int32),
        "masks": means.new_empty((pairs if keep else 0,), dtype=torch.int16),
    }


def _scene(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor | None, sh: Tensor | None,
    extra: Tensor | None, background: Tensor | None, cameras: Tensor, focal: Tensor, principal: Tensor | None,
) -> dict[str, Tensor | None]:  # fmt: skip
    return {
        "means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors, "sh": sh,
        "extra": extra, "background": background, "cameras": cameras, "focal": focal, "principal": principal,
    }  # fmt: skip


def present(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that hold anything: what is not kept is null on the other side."""
    return {name: tensor for name, tensor in tensors.items() if tensor.numel()}


def _splat(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor | None, sh: Tensor | None,
    extra: Tensor | None, background: Tensor | None, probe: Tensor | None, cameras: Tensor, focal: Tensor,
    keep: bool, height: int, width: int, dilation: float, compensate: bool, near: float,
    principal: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    scene = _scene(means, quats, scales, opacities, colors, sh, extra, background, cameras, focal, principal)
    if means.is_cuda:
        from cuda_ext import splat_cuda

        return splat_cuda.forward(scene, (height, width), (dilation, compensate, near), keep)
    lib, threads = build.library("splat"), build.threads()
    assert lib is not None
    params = make_params(scene, (height, width), dilation, compensate, near)
    pictures = empty_pictures(means, len(cameras), height, width, params.extra_count, keep)
    state = empty_state(means, len(cameras), height, width)
    keys = means.new_empty((len(cameras), len(means)), dtype=torch.int32)
    params.point(**present(pictures), **state, keys=keys)
    lib.dl_splat_project.restype = ctypes.c_int64
    pairs = lib.dl_splat_project(ctypes.byref(params), threads)
    if pairs >= 2**31:
        raise ValueError(f"splat: {pairs} pairs of splats and tiles are too many; render fewer views or smaller splats")
    params.pair_count = pairs
    lists = empty_pairs(means, pairs, keep)
    params.point(**present(lists))
    lib.dl_splat_bin(ctypes.byref(params), threads)
    lib.dl_splat_forward(ctypes.byref(params), threads)
    return (*pictures.values(), *state.values(), *lists.values())


def _splat_backward(
    grads: list[Tensor | None], means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor | None,
    sh: Tensor | None, extra: Tensor | None, background: Tensor | None, cameras: Tensor, focal: Tensor,
    saved: list[Tensor], with_probe: bool, height: int, width: int, dilation: float, compensate: bool, near: float,
    principal: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    scene = _scene(means, quats, scales, opacities, colors, sh, extra, background, cameras, focal, principal)
    params = make_params(scene, (height, width), dilation, compensate, near)
    params.point(**dict(zip(("depth", "radii", "through", "last", *STATE), saved, strict=True)))
    params.point(**dict(zip(GRADS_IN, grads, strict=True)))
    out = empty_grads(means, colors, sh, extra, len(cameras) if with_probe else 0)
    params.point(**present(out))
    pairs = params.pair_count = saved[-1].shape[0]
    if means.is_cuda:
        from cuda_ext import splat_cuda

        splat_cuda.backward(params, means, pairs, len(cameras), (height, width), grads[4] is not None)
        return tuple(out.values())
    lib = build.library("splat")
    assert lib is not None
    rows = means.new_empty((pairs, 16))
    extra_rows = means.new_empty((pairs, params.extra_count if grads[4] is not None else 0))
    params.point(rows=rows, extra_rows=extra_rows)
    lib.dl_splat_backward(ctypes.byref(params), build.threads())
    return tuple(out.values())


def empty_grads(
    means: Tensor, colors: Tensor | None, sh: Tensor | None, extra: Tensor | None, probe_views: int
) -> dict[str, Tensor]:
    """Zeros, but for what CUDA's kernel writes for every splat. Absent inputs get an empty tensor: an op returns
    tensors only."""
    none, count = means.new_empty((0,)), means.shape[0]
    new = means.new_empty if means.is_cuda else means.new_zeros
    return {
        "d_means": new((count, 3)),
        "d_quats": new((count, 4)),
        "d_scales": new((count, 3)),
        "d_opacities": new((count,)),
        "d_colors": none if colors is None else new(colors.shape),
        "d_sh": none.clone() if sh is None else torch.zeros_like(sh),
        "d_extra": none.clone() if extra is None else torch.zeros_like(extra),
        "d_probe": means.new_zeros((probe_views, count, 2)),
    }


_SCENE = (
    "Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor? colors, Tensor? sh, Tensor? extra, "
    "Tensor? background"
)
_REST = "int height, int width, float dilation, bool compensate, float near, Tensor? principal=None"
torch.library.define(
    "dreamlab::splat",
    f"({_SCENE}, Tensor? probe, Tensor cameras, Tensor focal, bool keep, {_REST}) -> ({', '.join(['Tensor'] * 15)})",
)
torch.library.define(
    "dreamlab::splat_backward",
    f"(Tensor?[] grads, {_SCENE}, Tensor cameras, Tensor focal, Tensor[] saved, bool with_probe, {_REST})"
    f" -> ({', '.join(['Tensor'] * 8)})",
)
torch.library.impl("dreamlab::splat", ("cpu", "cuda"), _splat)
torch.library.impl("dreamlab::splat_backward", ("cpu", "cuda"), _splat_backward)


@torch.library.register_fake("dreamlab::splat")
def _splat_fake(*inputs: Any) -> tuple[Tensor, ...]:
    means, extra, cameras, keep, height, width = (inputs[i] for i in (0, 6, 9, 11, 12, 13))
    pictures = empty_pictures(means, len(cameras), height, width, 0 if extra is None else extra.shape[1], keep)
    pairs = torch.library.get_ctx().new_dynamic_size()
    state = empty_state(means, len(cameras), height, width)
    return (*pictures.values(), *state.values(), *empty_pairs(means, pairs, keep).values())


@torch.library.register_fake("dreamlab::splat_backward")
def _backward_fake(*inputs: Any) -> tuple[Tensor, ...]:
    means, colors, sh, extra, cameras, with_probe = (*(inputs[i] for i in (1, 5, 6, 7, 9)), inputs[12])
    return tuple(empty_grads(means, colors, sh, extra, len(cameras) if with_probe else 0).values())


class _Splat(torch.autograd.Function):
    """What `register_autograd` would make of the same two functions, without its look-ups (0.2 ms a call)."""

    @staticmethod
    def forward(ctx: Context, *inputs: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            output = torch.ops.dreamlab.splat(*inputs)
        ctx.set_materialize_grads(False)
        ctx.with_probe, ctx.rest = inputs[8] is not None and ctx.needs_input_grad[8], inputs[12:17]
        ctx.principal, ctx.count = (*inputs[17:], None)[0], len(inputs)  # a default is not handed on
        optional = inputs[4:8]
        ctx.present = [tensor is not None for tensor in optional]
        _, _, depth, _, _, radii, through, last, *state = output
        tensors = [*inputs[:4], *(t for t in optional if t is not None), *inputs[9:11]]
        ctx.scene_size = len(tensors)
        ctx.save_for_backward(*tensors, depth, radii, through, last, *state)
        ctx.mark_non_differentiable(*output[5:])
        return tuple(output)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        pictures = [None if g is None else g.contiguous() for g in grads[:5]]
        nothing = (None,) * ctx.count
        if all(g is None for g in pictures):
            return nothing
        tensors = list(ctx.saved_tensors)
        scene, saved = tensors[: ctx.scene_size], tensors[ctx.scene_size :]
        optional = iter(scene[4:-2])
        colors, sh, extra, background = (next(optional) if present else None for present in ctx.present)
        out = torch.ops.dreamlab.splat_backward(
            pictures, *scene[:4], colors, sh, extra, background, *scene[-2:], saved, ctx.with_probe, *ctx.rest,
            ctx.principal,
        )  # fmt: skip
        d_means, d_quats, d_scales, d_opacities, d_colors, d_sh, d_extra, d_probe = out
        d_background = None
        if background is not None and pictures[0] is not None and ctx.needs_input_grad[7]:
            d_background = (pictures[0] * saved[2][..., None]).sum((1, 2))
        return (
            d_means, d_quats, d_scales, d_opacities,
            None if colors is None else d_colors, None if sh is None else d_sh, None if extra is None else d_extra,
            d_background, d_probe if ctx.with_probe else None, *nothing[9:],
        )  # fmt: skip


torch.library.impl("dreamlab::splat", "Autograd", _Splat.apply)
