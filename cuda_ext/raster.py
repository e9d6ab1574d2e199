# SPDX-License-Identifier: Apache-2.0
"""`raster`: which triangle each pixel sees, and where in it; a batch of views in one call."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, nvrtc, raster_nvdiffrast
from cuda_ext.check import check_alike, check_shape, check_size, require
from cuda_ext.context import Context, Inputs
from cuda_ext.reference import raster as reference

__all__ = ["Raster", "projection", "raster"]

HOST_READS = 0  # on CUDA, both ways
MAX_SIDE = 1 << 15  # pixels: within the guard band
LARGE_BLOCKS = 1024  # blocks that share the triangles too large for one CUDA thread


class Raster(NamedTuple):
    """What `raster` returns; zeros where no triangle is seen."""

    triangle: Tensor  # [B, H, W] int32: 1 + the nearest triangle, 0 for none
    uv: Tensor  # [B, H, W, 2] perspective-correct weights of corners 0 and 1; corner 2 has 1 - u - v
    depth: Tensor  # [B, H, W] z/w, -1 at the near plane, 1 at the far plane
    uv_dxy: Tensor  # [B, H, W, 4] du/dx, du/dy, dv/dx, dv/dy per pixel, y down


def projection(fovy_deg: Tensor | float, aspect: float, near: float, far: float) -> Tensor:
    """[..., 4, 4] from camera space (OpenGL: looks along -Z, +Y up) to clip space, for column vectors.

    fovy_deg    vertical field of view; a tensor [...] gives a batch
    aspect      width / height of the picture
    near, far   distances in front of the camera, 0 < near < far

    clip = P (x, y, z, 1): w = -z is the distance along the view axis, z/w runs from -1 at `near` to 1 at `far`,
    x/w = 1 is the right border of the picture and y/w = 1 the top one.
    """
    require(0 < near < far, f"projection: need 0 < near < far, got {near} and {far}")
    require(aspect > 0, f"projection: aspect (width / height) must be positive, got {aspect}")
    fovy = torch.as_tensor(fovy_deg)
    fovy = fovy if fovy.is_floating_point() else fovy.float()
    focal = 1 / torch.tan(fovy * (math.pi / 360))
    out = focal.new_zeros(*focal.shape, 4, 4)
    out[..., 0, 0], out[..., 1, 1] = focal / aspect, focal
    out[..., 2, 2], out[..., 2, 3] = (far + near) / (near - far), 2 * far * near / (near - far)
    out[..., 3, 2] = -1
    return out


def raster(
    clip: Tensor,  # [B, V, 4] or [V, 4]
    triangles: Tensor,  # [T, 3]
    size: tuple[int, int],
    *,
    backend: str = "auto",
) -> Raster:
    """Rasterise T triangles in B views with a depth buffer.

    clip        corners in clip space (OpenGL), one set per view; [V, 4] is a batch of one. See `projection`
    triangles   int32 or int64 rows of `clip`; both faces are drawn
    size        (height, width) of the picture, at most 32768 each
    backend     auto, native, torch or nvdiffrast (whose `depth` carries no gradient)

    A pixel is covered when its centre is. Corners are snapped to 1/256 pixel and a centre on a common edge goes to
    one side by the top-left rule: neighbours leave no crack and no double hit. Triangles are cut at the near and
    the far plane (z = -w, z = w), so corners behind the camera are fine. Of equal depths the triangle with the lower
    index is kept.

    Differentiable: clip, from `uv` and `depth` (inside the triangles; what happens at their borders is the business
    of `antialias`). `triangle` and `uv_dxy` carry no gradient. First derivatives only. Triangles with a corner
    that is not finite or not in `clip`, or without area on the snapping grid, are left out.
    """
    height, width = check_size("raster", size)
    require(max(height, width) <= MAX_SIDE, f"raster: size is at most {MAX_SIDE} a side, got {height} x {width}")
    clip = clip[None] if clip.ndim == 2 else clip
    check_shape("raster", "clip", clip, ("B", "V", 4))
    check_alike("raster", clip=clip)
    check_triangles("raster", triangles, clip)
    chosen = backends.choose("raster", backend, clip)
    if chosen != "native":
        other = reference.raster if chosen == "torch" else raster_nvdiffrast.raster
        return Raster(*other(clip, triangles, height, width))
    triangles = triangles.int().contiguous()
    clip, ops = clip.contiguous(), torch.ops.dreamlab
    triangle = ops.raster_visible(clip.detach(), triangles, height, width)
    return Raster(triangle, *ops.raster_barycentrics(clip, triangles, triangle))


def check_triangles(where: str, triangles: Tensor, like: Tensor) -> None:
    """[T, 3] of an index type, where `like` is.

    On the CPU the range is checked too; on a GPU that would wait, and a trace cannot: there the kernels leave out
    triangles that index what is not there.
    """
    check_shape(where, "triangles", triangles, ("T", 3))
    require(
        triangles.dtype in (torch.int32, torch.int64),
        f"{where}: triangles must be int32 or int64, got {triangles.dtype}",
    )
    require(
        triangles.device == like.device, f"{where}: triangles are on {triangles.device}, the vertices on {like.device}"
    )
    if triangles.device.type == "cpu" and triangles.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in triangles.aminmax())
        require(
            low >= 0 and high < like.shape[-2],
            f"{where}: triangles index rows {low}..{high}, but there are {like.shape[-2]} vertices",
        )


class Params(ctypes.Structure):
    """`RasterParams` of csrc/raster.h, field by field."""

    _fields_ = [
        ("clip", ctypes.c_void_p),
        ("triangles", ctypes.c_void_p),
        ("views", ctypes.c_int64),
        ("vertices", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
    ]


def run(op: str, function: str, params: ctypes.Structure, tensors: Sequence[Tensor | None], items: int) -> None:
    """Call `function(params, *tensors)` of a native op where the first tensor lives.

    On the CPU it is a C function that also takes the thread count and returns 0, or 1 when memory ran out; on CUDA
    it is a kernel of at least `items` threads.
    """
    first = tensors[0]
    assert first is not None
    pointers = [ctypes.c_void_p(build.pointer(t)) for t in tensors]
    if first.is_cuda:
        nvrtc.launch(op, function, first.device, ((items + 255) // 256, 1, 1), (256, 1, 1), [params, *pointers])
        return
    library = build.library(op)
    assert library is not None
    if getattr(library, function)(ctypes.byref(params), *pointers, build.threads()):
        raise MemoryError(f"{op}: out of memory; use fewer views, vertices or threads")


def sum_buffer(shape: torch.Size, like: Tensor) -> Tensor:
    """What gradients are summed in: CUDA kernels add to it, CPU launchers clear it themselves."""
    return like.new_zeros(shape) if like.is_cuda else like.new_empty(shape)


def _params(clip: Tensor, triangles: Tensor, height: int, width: int) -> Params:
    pointer = build.pointer
    return Params(pointer(clip), pointer(triangles), clip.shape[0], clip.shape[1], len(triangles), height, width)


def _visible(clip: Tensor, triangles: Tensor, height: int, width: int) -> Tensor:
    triangle = triangles.new_empty(clip.shape[0], height, width)
    params = _params(clip, triangles, height, width)
    if not clip.is_cuda:
        run("raster", "dl_raster_visible", params, [triangle], 0)
        return triangle
    items = clip.shape[0] * len(triangles)
    corners = triangles.new_empty(clip.shape[0], clip.shape[1], 4)
    key = torch.full(triangle.shape, -1, dtype=torch.int64, device=clip.device)  # (depth, triangle), smallest wins
    large = torch.empty(items + 1, dtype=torch.int64, device=clip.device)  # triangles that a whole block draws
    large[:1] = 0
    run("raster", "dl_raster_project", params, [corners], clip.shape[0] * clip.shape[1])
    run("raster", "dl_raster_small", params, [corners, key, large], items)
    run("raster", "dl_raster_large", params, [corners, key, large], 256 * LARGE_BLOCKS if items else 0)
    run("raster", "dl_raster_resolve", params, [key, triangle], triangle.numel())
    return triangle


def _barycentrics(clip: Tensor, triangles: Tensor, triangle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    uv, depth, slope = _barycentrics_like(clip, triangles, triangle)
    params = _params(clip, triangles, *triangle.shape[1:])
    run("raster", "dl_raster_barycentrics", params, [triangle, uv, depth, slope], triangle.numel())
    return uv, depth, slope


def _barycentrics_like(clip: Tensor, triangles: Tensor, triangle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = triangle.shape
    return clip.new_empty(*shape, 2), clip.new_empty(shape), clip.new_empty(*shape, 4)


def _barycentrics_backward(
    clip: Tensor, triangles: Tensor, triangle: Tensor, grad_uv: Tensor, grad_depth: Tensor
) -> Tensor:
    grad_clip = sum_buffer(clip.shape, clip)
    params = _params(clip, triangles, *triangle.shape[1:])
    run("raster", "dl_raster_barycentrics_backward", params, [triangle, grad_uv, grad_depth, grad_clip],
        triangle.numel())  # fmt: skip
    return grad_clip


def _save(ctx: Context, inputs: Inputs, output: Inputs | Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Context, grad_uv: Tensor, grad_depth: Tensor, _: object) -> tuple[Tensor | None, None, None]:
    if not ctx.needs_input_grad[0]:
        return None, None, None
    op = torch.ops.dreamlab.raster_barycentrics_backward
    return op(*ctx.saved_tensors, grad_uv.contiguous(), grad_depth.contiguous()), None, None


OPS: tuple[tuple[str, str, Callable[..., object], Callable[..., object]], ...] = (
    (
        "raster_visible",
        "(Tensor clip, Tensor triangles, SymInt height, SymInt width) -> Tensor",
        _visible,
        lambda clip, triangles, height, width: triangles.new_empty(clip.shape[0], height, width),
    ),
    (
        "raster_barycentrics",
        "(Tensor clip, Tensor triangles, Tensor triangle) -> (Tensor, Tensor, Tensor)",
        _barycentrics,
        _barycentrics_like,
    ),
    (
        "raster_barycentrics_backward",
        "(Tensor clip, Tensor triangles, Tensor triangle, Tensor grad_uv, Tensor grad_depth) -> Tensor",
        _barycentrics_backward,
        lambda clip, *_: torch.empty_like(clip),
    ),
)


def register(ops: tuple[tuple[str, str, Callable[..., object], Callable[..., object]], ...]) -> None:
    """Define torch ops: (name, schema, implementation on both devices, shapes of the results)."""
    for name, schema, implementation, fake in ops:
        torch.library.define(f"dreamlab::{name}", schema)
        torch.library.impl(f"dreamlab::{name}", ("cpu", "cuda"), implementation)
        torch.library.register_fake(f"dreamlab::{name}", fake)


register(OPS)
torch.library.register_autograd("dreamlab::raster_barycentrics", _backward, setup_context=_save)
