# SPDX-License-Identifier: Apache-2.0
"""`draw` and `sdf`: pictures and distances of programs of signed-distance primitives, many programs in one call."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, nvrtc
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.reference import sdf as reference
from cuda_ext.sdf_layout import LIGHT, PART, ROW

__all__ = ["MAX_ROWS", "draw", "sdf"]

HOST_READS = 0  # on CUDA
MAX_ROWS = 64
Drawn = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def draw(
    rows: Tensor,  # [K, P, ROW]
    parts: Tensor,  # [K, Q, PART]
    bound: Tensor,  # [K, 4]
    camera_to_world: Tensor,  # [K, B, 4, 4]
    focal_px: Tensor,  # [K, B]
    light: Tensor,  # [LIGHT]
    height: int,
    width: int,
    supersample: int = 2,
    *,
    backend: str = "auto",
) -> Drawn:
    """B pictures of each of K programs, every picture `supersample` x `supersample` samples per pixel.

    rows, parts, light  tables whose columns `cuda_ext.reference.sdf` names; at most MAX_ROWS rows a program, part ids
                        below Q, folds of at most 64 copies
    bound               a ball (centre, radius) that holds the program; nothing outside it is seen
    camera_to_world     rigid, OpenGL axes: the camera looks along its -Z, +Y is up
    focal_px            focal length in pixels of this picture; the principal point is its centre
    supersample         1 to 8
    backend             auto, native or torch

    Returns rgb [K, B, H, W, 3] (sRGB, premultiplied by alpha), alpha [K, B, H, W, 1], depth [K, B, H, W, 1] (camera z,
    0 where nothing is), normal [K, B, H, W, 3] (world), part [K, B, H, W] int64 (-1 where nothing is).
    Nothing is differentiable.
    """
    _check(rows, parts, bound, camera_to_world, focal_px, light)
    require(
        min(height, width) >= 1 and 1 <= supersample <= 8,
        f"sdf.draw: size must be positive and supersample 1 to 8, got {height} x {width} and {supersample}",
    )
    with torch.no_grad():
        pose, focal = camera_to_world.contiguous(), focal_px.contiguous()
        rows, parts, bound, light = rows.contiguous(), parts.contiguous(), bound.contiguous(), light.contiguous()
        if backends.choose("sdf", backend, rows) == "native":
            return tuple(
                torch.ops.dreamlab.sdf_draw(rows, parts, bound, pose, focal, light, height, width, supersample)
            )
        if not (len(rows) and camera_to_world.shape[1]):
            return _empty(rows, camera_to_world, height, width)
        return reference.draw(rows, parts, bound, pose, focal, light, height, width, supersample)


def sdf(rows: Tensor, points: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Signed distance [K, N] and part id [K, N] int64 of points [K, N, 3] in programs [K, P, ROW]; no gradients."""
    check_shape("sdf", "rows", rows, ("K", "P", ROW))
    check_shape("sdf", "points", points, (len(rows), "N", 3))
    check_alike("sdf", rows=rows, points=points)
    require(rows.shape[1] <= MAX_ROWS, f"sdf: at most {MAX_ROWS} rows a program, got {rows.shape[1]}")
    with torch.no_grad():
        if backends.choose("sdf", backend, rows) == "native":
            return tuple(torch.ops.dreamlab.sdf_points(rows.contiguous(), points.contiguous()))
        return reference.sdf(rows, points)


def _check(rows: Tensor, parts: Tensor, bound: Tensor, pose: Tensor, focal: Tensor, light: Tensor) -> None:
    check_shape("sdf.draw", "rows", rows, ("K", "P", ROW))
    count = len(rows)
    check_shape("sdf.draw", "parts", parts, (count, "Q", PART))
    check_shape("sdf.draw", "bound", bound, (count, 4))
    check_shape("sdf.draw", "camera_to_world", pose, (count, "B", 4, 4))
    check_shape("sdf.draw", "focal_px", focal, (count, pose.shape[1]))
    check_shape("sdf.draw", "light", light, (LIGHT,))
    check_alike("sdf.draw", rows=rows, parts=parts, bound=bound, camera_to_world=pose, focal_px=focal, light=light)
    require(parts.shape[1] >= 1, "sdf.draw: parts must have at least one line per program")
    require(rows.shape[1] <= MAX_ROWS, f"sdf.draw: at most {MAX_ROWS} rows a program, got {rows.shape[1]}")


def _empty(rows: Tensor, pose: Tensor, height: int, width: int) -> Drawn:
    pixels = (len(rows), pose.shape[1], height, width)
    new = rows.new_empty
    return (new(*pixels, 3), new(*pixels, 1), new(*pixels, 1), new(*pixels, 3), new(pixels, dtype=torch.int64))


class _Params(ctypes.Structure):
    """`SdfParams` of csrc/sdf.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "parts", "bound", "pose", "focal", "prepared")),
        *((name, ctypes.c_void_p) for name in ("rgb", "alpha", "depth", "normal", "part")),
        ("light", ctypes.c_float * LIGHT),
        *((name, ctypes.c_int) for name in ("programs", "row_count", "part_count", "views")),
        *((name, ctypes.c_int) for name in ("height", "width", "supersample")),
    )


def _params(tables: list[Tensor], light: list[float], drawn: Drawn, prepared: int | None, supersample: int) -> _Params:
    rows, parts, pose = tables[0], tables[1], tables[3]
    shape = (len(rows), rows.shape[1], parts.shape[1], pose.shape[1], *drawn[4].shape[2:], supersample)
    pointers = [build.pointer(t) for t in tables]
    return _Params(*pointers, prepared, *(build.pointer(t) for t in drawn), (ctypes.c_float * LIGHT)(*light), *shape)


def _draw_cpu(
    rows: Tensor,
    parts: Tensor,
    bound: Tensor,
    pose: Tensor,
    focal: Tensor,
    light: Tensor,
    height: int,
    width: int,
    supersample: int,
) -> list[Tensor]:
    lib = build.library("sdf")
    assert lib is not None
    drawn = _empty(rows, pose, height, width)
    params = _params([rows, parts, bound, pose, focal], light.tolist(), drawn, None, supersample)
    lib.dl_sdf_draw(ctypes.byref(params), build.threads())
    return list(drawn)


class _Points(ctypes.Structure):
    """`SdfPoints` of csrc/sdf.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "prepared", "points", "gap", "part")),
        *((name, ctypes.c_int64) for name in ("programs", "row_count", "count")),
    )


def _points(rows: Tensor, points: Tensor, prepared: Tensor | None) -> tuple[_Points, list[Tensor]]:
    found = [points.new_empty(points.shape[:2]), points.new_empty(points.shape[:2], dtype=torch.int64)]
    pointers = [build.pointer(t) for t in (rows, prepared, points, *found)]
    return _Points(*pointers, *rows.shape[:2], points.shape[1]), found


def _points_cpu(rows: Tensor, points: Tensor) -> list[Tensor]:
    lib = build.library("sdf")
    assert lib is not None
    params, found = _points(rows, points, None)
    lib.dl_sdf_points(ctypes.byref(params), build.threads())
    return found


def _prepare_cuda(rows: Tensor) -> Tensor:
    """Scratch memory with the prepared rows."""
    count = rows.shape[0] * rows.shape[1]
    prepared = torch.empty(count * PREPARED_BYTES, dtype=torch.uint8, device=rows.device)
    arguments = [ctypes.c_void_p(rows.data_ptr()), ctypes.c_void_p(prepared.data_ptr()), ctypes.c_int(count)]
    nvrtc.launch("sdf", "dl_sdf_prepare", rows.device, ((count + 127) // 128, 1, 1), (128, 1, 1), arguments)
    return prepared


def _points_cuda(rows: Tensor, points: Tensor) -> list[Tensor]:
    prepared = _prepare_cuda(rows)  # named, so that it lives until the kernel is launched
    params, found = _points(rows, points, prepared)
    blocks = (points.shape[0] * points.shape[1] + 127) // 128
    nvrtc.launch("sdf", "dl_sdf_points", rows.device, (blocks, 1, 1), (128, 1, 1), [params])
    return found


def _draw_cuda(
    rows: Tensor,
    parts: Tensor,
    bound: Tensor,
    pose: Tensor,
    focal: Tensor,
    light: Tensor,
    height: int,
    width: int,
    supersample: int,
) -> list[Tensor]:
    drawn = _empty(rows, pose, height, width)
    prepared = _prepare_cuda(rows)
    params = _params([rows, parts, bound, pose, focal], [], drawn, build.pointer(prepared), supersample)
    tiles = ((width + 7) // 8) * ((height + 7) // 8) * pose.shape[0] * pose.shape[1]
    arguments = [params, ctypes.c_void_p(light.data_ptr())]
    nvrtc.launch("sdf", "dl_sdf_draw", rows.device, (tiles, 1, 1), (64, 1, 1), arguments)
    return list(drawn)


PREPARED_BYTES = 344  # sizeof(SdfRow), asserted in csrc/sdf_cuda.cu

torch.library.define(
    "dreamlab::sdf_draw",
    "(Tensor rows, Tensor parts, Tensor bound, Tensor pose, Tensor focal, Tensor light, int height, int width, "
    "int supersample) -> Tensor[]",
)
torch.library.define("dreamlab::sdf_points", "(Tensor rows, Tensor points) -> Tensor[]")
torch.library.impl("dreamlab::sdf_draw", "CPU", _draw_cpu)
torch.library.impl("dreamlab::sdf_draw", "CUDA", _draw_cuda)
torch.library.impl("dreamlab::sdf_points", "CPU", _points_cpu)
torch.library.impl("dreamlab::sdf_points", "CUDA", _points_cuda)
torch.library.register_fake(
    "dreamlab::sdf_draw", lambda rows, parts, bound, pose, focal, light, h, w, s: list(_empty(rows, pose, h, w))
)
torch.library.register_fake(
    "dreamlab::sdf_points",
    lambda rows, points: [points.new_empty(points.shape[:2]), points.new_empty(points.shape[:2], dtype=torch.int64)],
)
