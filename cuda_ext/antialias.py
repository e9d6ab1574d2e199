# SPDX-License-Identifier: Apache-2.0
"""`antialias`: blends pixels across silhouettes, which is where gradients of visibility come from."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, raster_nvdiffrast
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.context import Context, Inputs
from cuda_ext.raster import Raster, check_triangles, register, run, sum_buffer
from cuda_ext.reference import antialias as reference

__all__ = ["antialias", "edge_neighbours"]

HOST_READS = 0  # of either on CUDA, both ways


def edge_neighbours(triangles: Tensor) -> Tensor:
    """[T, 3] triangles -> [T, 3] int32: which triangle lies behind each edge, for `antialias`.

    Entry (t, i) belongs to the edge opposite corner i of triangle t and is 3 t' + i' of the same edge in the other
    triangle, or -1 where the edge is open or shared by more than two. It depends on the triangles alone: build it
    once and keep it while they do not change. Corners are compared by index, so use triangles that share vertices
    by position (seams of texture coordinates belong into a second set, see `interpolate`).
    """
    check_shape("edge_neighbours", "triangles", triangles, ("T", 3))
    return reference.edge_neighbours(triangles)


def antialias(
    color: Tensor,  # [B, H, W, C]
    raster: Raster,
    clip: Tensor,  # [B, V, 4] or [V, 4]
    triangles: Tensor,  # [T, 3]
    *,
    neighbours: Tensor | None = None,  # [T, 3]
    backend: str = "auto",
) -> Tensor:
    """Smooth the silhouettes of a rendered picture, differentiably: [B, H, W, C].

    color       the picture to smooth, rendered from `raster` (over its background, if it has one)
    raster      what `raster` returned for the same `clip` and `triangles`
    clip        corners in clip space
    triangles   the triangles that were rasterised
    neighbours  `edge_neighbours(triangles)`, built here when None
    backend     auto, native, torch or nvdiffrast

    Where two neighbouring pixels see different surfaces, the nearer surface ends at an edge between their centres.
    The pixel that the edge cuts takes colour from the other in proportion to the part of it that lies behind the
    edge; an edge nearer to vertical acts on pairs side by side, the others on pairs one above the other. The sum
    over a row (column) of pixels is thus exact for a long straight edge, and its gradient reaches the corners of the
    edge. Silhouettes are found by walking over the mesh, so triangles smaller than a pixel are no obstacle; up to 64
    triangles between two centres. Where surfaces cut through each other there is no edge and nothing is smoothed.

    Differentiable: color, clip (x, y and w of the corners of silhouette edges). `raster.depth` only decides which
    surface is nearer. First derivatives only.
    """
    clip = clip[None] if clip.ndim == 2 else clip
    views, height, width = raster.triangle.shape
    check_shape("antialias", "color", color, (views, height, width, "C"))
    check_shape("antialias", "clip", clip, (views, "V", 4))
    check_alike("antialias", color=color, clip=clip, depth=raster.depth)
    check_triangles("antialias", triangles, clip)
    if neighbours is None:
        neighbours = reference.edge_neighbours(triangles)
    check_shape("antialias", "neighbours", neighbours, (len(triangles), 3))
    require(neighbours.dtype == torch.int32, f"antialias: neighbours must be int32, got {neighbours.dtype}")
    depth = raster.depth.detach()
    chosen = backends.choose("antialias", backend, color)
    if chosen != "native":
        other = reference.antialias if chosen == "torch" else raster_nvdiffrast.antialias
        return other(color, raster.triangle, depth, clip, triangles, neighbours)
    clip, triangles, ops = clip.contiguous(), triangles.int().contiguous(), torch.ops.dreamlab
    pairs = ops.antialias_silhouettes(
        raster.triangle.contiguous(), depth.contiguous(), clip.detach(), triangles, neighbours.contiguous()
    )
    return ops.antialias_blend(color.contiguous(), clip, triangles, pairs)


class Params(ctypes.Structure):
    """`AntialiasParams` of csrc/antialias.h, field by field."""

    _fields_ = [
        ("clip", ctypes.c_void_p),
        ("triangles", ctypes.c_void_p),
        ("neighbours", ctypes.c_void_p),
        ("views", ctypes.c_int64),
        ("vertices", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("channels", ctypes.c_int64),
    ]


def _params(clip: Tensor, triangles: Tensor, neighbours: Tensor | None, picture: Tensor, channels: int) -> Params:
    pointers = [build.pointer(t) for t in (clip, triangles, neighbours)]
    views, vertices, _ = clip.shape
    return Params(*pointers, views, vertices, len(triangles), picture.shape[1], picture.shape[2], channels)


def _silhouettes(triangle: Tensor, depth: Tensor, clip: Tensor, triangles: Tensor, neighbours: Tensor) -> Tensor:
    pairs = triangle.new_empty(*triangle.shape, 2)
    params = _params(clip, triangles, neighbours, triangle, 0)
    if not clip.is_cuda:
        run("antialias", "dl_antialias_silhouettes", params, [triangle, depth, pairs], 0)
        return pairs
    sides, states = (torch.empty(len(clip), len(triangles), dtype=torch.uint8, device=clip.device) for _ in range(2))
    run("antialias", "dl_antialias_facing", params, [sides], sides.numel())
    run("antialias", "dl_antialias_states", params, [sides, states], sides.numel())
    run("antialias", "dl_antialias_silhouettes", params, [triangle, depth, states, pairs], triangle.numel())
    return pairs


def _blend(color: Tensor, clip: Tensor, triangles: Tensor, pairs: Tensor) -> Tensor:
    out = torch.empty_like(color)
    params = _params(clip, triangles, None, pairs, color.shape[3])
    run("antialias", "dl_antialias_blend", params, [color, pairs, out], pairs.numel() // 2)
    return out


def _blend_backward(
    color: Tensor, clip: Tensor, triangles: Tensor, pairs: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    grad_color, grad_clip = torch.empty_like(color), sum_buffer(clip.shape, clip)
    params = _params(clip, triangles, None, pairs, color.shape[3])
    tensors = [color, pairs, grad, grad_color, grad_clip]
    run("antialias", "dl_antialias_blend_backward", params, tensors, pairs.numel() // 2)
    return grad_color, grad_clip


def _save(ctx: Context, inputs: Inputs, output: Inputs | Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    op = torch.ops.dreamlab.antialias_blend_backward
    return *op(*ctx.saved_tensors, grad.contiguous()), None, None


BLEND = "Tensor color, Tensor clip, Tensor triangles, Tensor pairs"
register(
    (
        (
            "antialias_silhouettes",
            "(Tensor triangle, Tensor depth, Tensor clip, Tensor triangles, Tensor neighbours) -> Tensor",
            _silhouettes,
            lambda triangle, *_: triangle.new_empty(*triangle.shape, 2),
        ),
        ("antialias_blend", f"({BLEND}) -> Tensor", _blend, lambda color, *_: torch.empty_like(color)),
        (
            "antialias_blend_backward",
            f"({BLEND}, Tensor grad) -> (Tensor, Tensor)",
            _blend_backward,
            lambda color, clip, *_: (torch.empty_like(color), torch.empty_like(clip)),
        ),
    )
)
torch.library.register_autograd("dreamlab::antialias_blend", _backward, setup_context=_save)
