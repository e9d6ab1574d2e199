# SPDX-License-Identifier: Apache-2.0
"""`texture`: bilinear and mip-mapped texture fetch."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, raster_nvdiffrast
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.context import Context, Inputs
from cuda_ext.raster import register, run, sum_buffer
from cuda_ext.reference import texture as reference
from cuda_ext.reference.texture import level_sizes

__all__ = ["texture"]

HOST_READS = 0  # on CUDA, both ways
BOUNDARIES = ("wrap", "clamp")
MAX_LEVELS = 32
SMALL = 4096  # texels of the largest level that one block makes on CUDA, with all smaller ones


def texture(
    image: Tensor,  # [h, w, C] or [B, h, w, C]
    uv: Tensor,  # [B, H, W, 2]
    *,
    level: Tensor | None = None,  # [B, H, W]
    uv_dxy: Tensor | None = None,  # [B, H, W, 4]
    boundary: str = "wrap",
    max_level: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Read a texture at `uv`: [B, H, W, C].

    image      texels of any size, one texture for all views or one per view; its row 0 is v = 0
    uv         texture coordinates with glTF's origin: (0, 0) is the outer corner of the first texel of row 0, v grows
               downward; texel (row, column) has its centre at ((column + 0.5) / w, (row + 0.5) / h)
    level      mip level to read, 0 is `image`; fractions blend two levels, values are clamped to those there are
    uv_dxy     du/dx, du/dy, dv/dx, dv/dy per pixel (from `interpolate`): the level is then log2 of the longer side of
               the pixel's footprint in texels. At most one of the two; with neither the fetch is bilinear from `image`
    boundary   wrap (repeat, glTF's default) or clamp (to the outermost texels)
    max_level  coarsest level to use; None goes down to 1 x 1
    backend    auto, native, torch or nvdiffrast

    The pyramid is part of the op: each level is the exact area average of the one before, sizes are halved and
    rounded down, so an image with odd sides keeps its mean too. Differentiable: image (all levels folded back),
    uv, level, uv_dxy. First derivatives only. A coordinate or level that is not finite reads as 0, without
    gradient.
    """
    shared = image.ndim == 3
    image = image[None] if shared else image
    check_shape("texture", "image", image, ("B", "h", "w", "C"))
    check_shape("texture", "uv", uv, ("B", "H", "W", 2))
    check_alike("texture", image=image, uv=uv, level=level, uv_dxy=uv_dxy)
    require(min(image.shape[1:]) >= 1, f"texture: image has no texels or channels: {list(image.shape)}")
    require(shared or len(image) == len(uv), f"texture: image has {len(image)} views, uv {len(uv)}")
    require(boundary in BOUNDARIES, f"texture: boundary '{boundary}' is not one of {', '.join(BOUNDARIES)}")
    require(level is None or uv_dxy is None, "texture: give level or uv_dxy, not both")
    require(max_level is None or max_level >= 0, f"texture: max_level must be >= 0, got {max_level}")
    height, width = image.shape[1:3]
    if uv_dxy is not None:
        check_shape("texture", "uv_dxy", uv_dxy, (*uv.shape[:3], 4))
    if level is not None:
        check_shape("texture", "level", level, tuple(uv.shape[:3]))
    levels = 1 if level is None and uv_dxy is None else len(level_sizes(height, width, max_level))
    wrap = boundary == "wrap"
    chosen = backends.choose("texture", backend, image)
    if chosen != "native":
        level = level if uv_dxy is None else reference.mip_level(uv_dxy, height, width)
        if chosen == "nvdiffrast":
            return raster_nvdiffrast.fetch(image, uv, level, levels, boundary)
        return reference.fetch(reference.mip_pyramid(image, levels), uv, level, height, width, levels, wrap)
    ops, image = torch.ops.dreamlab, image.contiguous()
    pyramid = image.flatten(1, 2) if levels == 1 else ops.texture_pyramid(image, levels)
    if uv_dxy is not None:
        level = ops.texture_level(uv_dxy.contiguous(), height, width)
    level = None if level is None or levels == 1 else level.contiguous()
    return ops.texture_fetch(pyramid, uv.contiguous(), level, height, width, levels, wrap)


class Params(ctypes.Structure):
    """`TextureParams` of csrc/texture.h, field by field."""

    _fields_ = [
        ("pyramid", ctypes.c_void_p),
        ("uv", ctypes.c_void_p),
        ("level", ctypes.c_void_p),
        ("views", ctypes.c_int64),
        ("sets", ctypes.c_int64),
        ("texels", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("levels", ctypes.c_int32),
        ("wrap", ctypes.c_int32),
        ("start", ctypes.c_int64 * MAX_LEVELS),
    ]


def _params(
    pyramid: Tensor, uv: Tensor | None, level: Tensor | None, height: int, width: int, levels: int, wrap: bool
) -> Params:
    start = (ctypes.c_int64 * MAX_LEVELS)()
    total = 0
    for i, (h, w) in enumerate(level_sizes(height, width, levels - 1)):
        start[i], total = total, total + h * w
    views, rows, columns = (len(pyramid), 0, 0) if uv is None else uv.shape[:3]
    return Params(
        build.pointer(pyramid), build.pointer(uv), build.pointer(level), views, len(pyramid), total, pyramid.shape[2],
        rows, columns, height, width, levels, wrap, start,
    )  # fmt: skip


def _level(slope: Tensor, height: int, width: int) -> Tensor:
    level = slope.new_empty(slope.shape[:3])
    run("texture", "dl_texture_level", _level_params(slope, height, width), [slope, level], level.numel())
    return level


def _level_backward(slope: Tensor, height: int, width: int, grad: Tensor) -> Tensor:
    out = torch.empty_like(slope)
    run("texture", "dl_texture_level_backward", _level_params(slope, height, width), [slope, grad, out], grad.numel())
    return out


def _level_params(slope: Tensor, height: int, width: int) -> Params:
    views, rows, columns = slope.shape[:3]
    return Params(views=views, rows=rows, columns=columns, height=height, width=width)


def _pyramid_like(image: Tensor, levels: int) -> Tensor:
    total = sum(h * w for h, w in level_sizes(image.shape[1], image.shape[2], levels - 1))
    return image.new_empty(image.shape[0], total, image.shape[3])


def _pyramid(image: Tensor, levels: int) -> Tensor:
    height, width = image.shape[1:3]
    pyramid = _pyramid_like(image, levels)
    pyramid[:, : height * width] = image.flatten(1, 2)
    _each_level("dl_texture_pyramid", [pyramid], height, width, range(1, levels))
    return pyramid


def _pyramid_backward(grad: Tensor, height: int, width: int, levels: int) -> Tensor:
    coarse = grad[:, height * width :].clone(memory_format=torch.contiguous_format)
    out = grad.new_empty(len(grad), height, width, grad.shape[2])
    _each_level("dl_texture_pyramid_backward", [grad, coarse, out], height, width, range(levels - 1, 0, -1))
    return out


def _each_level(function: str, tensors: list[Tensor], height: int, width: int, order: range) -> None:
    """The CPU function does all levels. On CUDA each large one is a kernel, told which by the field `levels`, and the
    small ones are one together, told the first and the last by `levels` and `rows`."""
    first, ascending = tensors[0], order.step > 0
    params = _params(first, None, None, height, width, len(order) + 1, False)
    if not first.is_cuda:
        run("texture", function, params, tensors, 0)
        return
    texels = {i: math.prod(size) for i, size in enumerate(level_sizes(height, width), 0 if ascending else 1)}
    large, small = [i for i in order if texels[i] > SMALL], [i for i in order if texels[i] <= SMALL]
    one_by_one = [(function, i, i, len(first) * texels[i]) for i in large]
    together = [(function.replace("pyramid", "pyramid_small"), small[0], small[-1], 256 * len(first))] if small else []
    for kernel, begin, end, threads in one_by_one + together if ascending else together + one_by_one:
        params.levels, params.rows = begin, end
        run("texture", kernel, params, tensors, threads)


def _fetch(
    pyramid: Tensor, uv: Tensor, level: Tensor | None, height: int, width: int, levels: int, wrap: bool
) -> Tensor:
    out = uv.new_empty(*uv.shape[:3], pyramid.shape[2])
    params = _params(pyramid, uv, level, height, width, levels, wrap)
    run("texture", "dl_texture_fetch", params, [out], uv.numel() // 2)
    return out


def _fetch_backward(
    pyramid: Tensor, uv: Tensor, level: Tensor | None, height: int, width: int, levels: int, wrap: bool, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_pyramid, grad_uv, grad_level = _fetch_backward_like(pyramid, uv, level)
    grad_pyramid = sum_buffer(pyramid.shape, pyramid)
    params = _params(pyramid, uv, level, height, width, levels, wrap)
    out = [grad, grad_pyramid, grad_uv, None if level is None else grad_level]
    run("texture", "dl_texture_fetch_backward", params, out, uv.numel() // 2)
    return grad_pyramid, grad_uv, grad_level


def _fetch_backward_like(
    pyramid: Tensor, uv: Tensor, level: Tensor | None, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(pyramid), torch.empty_like(uv), uv.new_empty(0 if level is None else level.shape)


def _save_fetch(ctx: Context, inputs: Inputs, output: Inputs | Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.sizes = inputs[3:]


def _backward_fetch(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    op = torch.ops.dreamlab.texture_fetch_backward
    grad_pyramid, grad_uv, grad_level = op(*ctx.saved_tensors, *ctx.sizes, grad.contiguous())
    return grad_pyramid, grad_uv, None if ctx.saved_tensors[2] is None else grad_level, None, None, None, None


def _save_level(ctx: Context, inputs: Inputs, output: Inputs | Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.sizes = inputs[1:]


def _backward_level(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.dreamlab.texture_level_backward(*ctx.saved_tensors, *ctx.sizes, grad.contiguous()), None, None


def _save_pyramid(ctx: Context, inputs: Inputs, output: Inputs | Tensor) -> None:
    ctx.sizes = (*inputs[0].shape[1:3], inputs[1])


def _backward_pyramid(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.dreamlab.texture_pyramid_backward(grad.contiguous(), *ctx.sizes), None


SIZES = "SymInt height, SymInt width, int levels"
FETCH = f"Tensor pyramid, Tensor uv, Tensor? level, {SIZES}, bool wrap"
register(
    (
        (
            "texture_level",
            "(Tensor slope, SymInt height, SymInt width) -> Tensor",
            _level,
            lambda slope, *_: slope.new_empty(slope.shape[:3]),
        ),
        (
            "texture_level_backward",
            "(Tensor slope, SymInt height, SymInt width, Tensor grad) -> Tensor",
            _level_backward,
            lambda slope, *_: torch.empty_like(slope),
        ),
        ("texture_pyramid", "(Tensor image, int levels) -> Tensor", _pyramid, _pyramid_like),
        (
            "texture_pyramid_backward",
            f"(Tensor grad, {SIZES}) -> Tensor",
            _pyramid_backward,
            lambda grad, height, width, levels: grad.new_empty(grad.shape[0], height, width, grad.shape[2]),
        ),
        (
            "texture_fetch",
            f"({FETCH}) -> Tensor",
            _fetch,
            lambda pyramid, uv, *_: uv.new_empty(*uv.shape[:3], pyramid.shape[2]),
        ),
        (
            "texture_fetch_backward",
            f"({FETCH}, Tensor grad) -> (Tensor, Tensor, Tensor)",
            _fetch_backward,
            _fetch_backward_like,
        ),
    )
)
torch.library.register_autograd("dreamlab::texture_level", _backward_level, setup_context=_save_level)
torch.library.register_autograd("dreamlab::texture_fetch", _backward_fetch, setup_context=_save_fetch)
torch.library.register_autograd("dreamlab::texture_pyramid", _backward_pyramid, setup_context=_save_pyramid)
