# SPDX-License-Identifier: Apache-2.0
"""`interpolate`: vertex attributes at the pixels of a raster."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, raster_nvdiffrast
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.context import Context, Inputs
from cuda_ext.raster import Raster, check_triangles, register, run, sum_buffer
from cuda_ext.reference import interpolate as reference

__all__ = ["interpolate"]

HOST_READS = 0  # on CUDA, both ways


def interpolate(
    attributes: Tensor,  # [V, C] or [B, V, C]
    raster: Raster,
    triangles: Tensor,  # [T, 3]
    *,
    derivatives: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Attributes [B, H, W, C] where the raster sees a triangle, zeros elsewhere, and their change per pixel.

    attributes   numbers per vertex (normals, texture coordinates, ...), one set for all views or one per view
    raster       what `raster` returned
    triangles    rows of `attributes`. They need not be the triangles that were rasterised, only as many in the same
                 order: texture coordinates with seams have their own
    derivatives  also return [B, H, W, C, 2], the change per pixel to the right and down; else None. Of two texture
                 coordinates, `.flatten(-2)` is what `texture` takes as `uv_dxy`
    backend      auto, native, torch or nvdiffrast

    value = u a_0 + v a_1 + (1 - u - v) a_2, perspective-correct. Differentiable: attributes from both results,
    raster.uv (and through it the clip positions) from the values. First derivatives only. A triangle that names
    a row outside `attributes` counts as none.
    """
    shared = attributes.ndim == 2
    attributes = attributes[None] if shared else attributes
    check_shape("interpolate", "attributes", attributes, ("B", "V", "C"))
    check_alike("interpolate", attributes=attributes, uv=raster.uv)
    check_triangles("interpolate", triangles, attributes)
    views = len(raster.triangle)
    require(
        shared or len(attributes) == views, f"interpolate: attributes have {len(attributes)} views, the raster {views}"
    )
    uv_dxy = raster.uv_dxy if derivatives else None
    chosen = backends.choose("interpolate", backend, attributes)
    if chosen != "native":
        other = reference.interpolate if chosen == "torch" else raster_nvdiffrast.interpolate
        return other(attributes, triangles, raster.triangle, raster.uv, uv_dxy)
    value, slope = torch.ops.dreamlab.interpolate(
        attributes.contiguous(), triangles.int().contiguous(), raster.triangle.contiguous(), raster.uv.contiguous(),
        None if uv_dxy is None else uv_dxy.detach().contiguous(),
    )  # fmt: skip
    return value, slope if derivatives else None


class Params(ctypes.Structure):
    """`InterpolateParams` of csrc/interpolate.h, field by field."""

    _fields_ = [
        ("attributes", ctypes.c_void_p),
        ("triangles", ctypes.c_void_p),
        ("triangle", ctypes.c_void_p),
        ("uv", ctypes.c_void_p),
        ("uv_dxy", ctypes.c_void_p),
        ("views", ctypes.c_int64),
        ("sets", ctypes.c_int64),
        ("vertices", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
    ]


def _params(attributes: Tensor, triangles: Tensor, triangle: Tensor, uv: Tensor, uv_dxy: Tensor | None) -> Params:
    pointers = [build.pointer(t) for t in (attributes, triangles, triangle, uv, uv_dxy)]
    sets, vertices, channels = attributes.shape
    views, height, width = triangle.shape
    return Params(*pointers, views, sets, vertices, len(triangles), channels, height, width)


def _like(
    attributes: Tensor, triangles: Tensor, triangle: Tensor, uv: Tensor, uv_dxy: Tensor | None
) -> tuple[Tensor, Tensor]:
    value = attributes.new_empty(*triangle.shape, attributes.shape[2])
    return value, attributes.new_empty(0 if uv_dxy is None else (*value.shape, 2))


def _interpolate(
    attributes: Tensor, triangles: Tensor, triangle: Tensor, uv: Tensor, uv_dxy: Tensor | None
) -> tuple[Tensor, Tensor]:
    value, slope = _like(attributes, triangles, triangle, uv, uv_dxy)
    params = _params(attributes, triangles, triangle, uv, uv_dxy)
    run("interpolate", "dl_interpolate", params, [value, slope], triangle.numel())
    return value, slope


def _backward_like(
    attributes: Tensor, triangles: Tensor, triangle: Tensor, uv: Tensor, *_: object
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(attributes), torch.empty_like(uv)


def _interpolate_backward(
    attributes: Tensor, triangles: Tensor, triangle: Tensor, uv: Tensor, uv_dxy: Tensor | None, grad: Tensor,
    grad_slope: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grad_attributes, grad_uv = sum_buffer(attributes.shape, attributes), torch.empty_like(uv)
    params = _params(attributes, triangles, triangle, uv, uv_dxy)
    run(
        "interpolate", "dl_interpolate_backward", params, [grad, grad_slope, grad_attributes, grad_uv], triangle.numel()
    )
    return grad_attributes, grad_uv


def _save(ctx: Context, inputs: Inputs, output: Inputs | Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Context, grad: Tensor, grad_slope: Tensor) -> tuple[Tensor | None, ...]:
    slope = None if ctx.saved_tensors[4] is None else grad_slope.contiguous()
    op = torch.ops.dreamlab.interpolate_backward
    grad_attributes, grad_uv = op(*ctx.saved_tensors, grad.contiguous(), slope)
    return grad_attributes, None, None, grad_uv, None


INPUTS = "Tensor attributes, Tensor triangles, Tensor triangle, Tensor uv, Tensor? uv_dxy"
register(
    (
        ("interpolate", f"({INPUTS}) -> (Tensor, Tensor)", _interpolate, _like),
        (
            "interpolate_backward",
            f"({INPUTS}, Tensor grad, Tensor? grad_slope) -> (Tensor, Tensor)",
            _interpolate_backward,
            _backward_like,
        ),
    )
)
torch.library.register_autograd("dreamlab::interpolate", _backward, setup_context=_save)
