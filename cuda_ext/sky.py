# SPDX-License-Identifier: Apache-2.0
"""`sky`: how much of a white sky points of a surface see past the surface itself."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, nvrtc
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.raster import check_triangles
from cuda_ext.reference import sky as reference

__all__ = ["sky"]

HOST_READS = 0  # on CUDA


def sky(
    vertices: Tensor,  # [V, 3]
    faces: Tensor,  # [F, 3]
    points: Tensor,  # [M, 3]
    normals: Tensor,  # [M, 3]
    ways: Tensor,  # [D, 3, 3]
    *,
    pixels: int,
    slack: float,
    backend: str = "auto",
) -> Tensor:
    """The cosine-weighted share of 2 D directions in which nothing of a surface is in a point's way: [M].

    vertices, points   in [-1, 1]^3; beyond it nothing is in the way, and a point reads the nearest pixel
    faces              int32 or int64
    normals            unit
    ways               rotations whose rows are right, up, toward the sky; each is looked along both ways
    pixels             a side of the height pictures, at most 4096
    slack              how far a point may lie behind what is seen at its pixel
    backend            auto, native or torch

    Nothing is differentiable.
    """
    check_shape("sky", "vertices", vertices, ("V", 3))
    check_shape("sky", "points", points, ("M", 3))
    check_shape("sky", "normals", normals, (len(points), 3))
    check_shape("sky", "ways", ways, ("D", 3, 3))
    check_alike("sky", vertices=vertices, points=points, normals=normals, ways=ways)
    check_triangles("sky", faces, vertices)
    require(1 <= pixels <= 4096, f"sky: pixels is 1 to 4096, got {pixels}")
    with torch.no_grad():
        if backends.choose("sky", backend, points) == "torch":
            return reference.sky(vertices, faces, points, normals, ways, pixels, slack)
        given = (vertices.contiguous(), faces.int().contiguous(), points.contiguous(), normals.contiguous())
        return torch.ops.dreamlab.sky(*given, ways.contiguous(), pixels, slack)


class _Params(ctypes.Structure):
    """`SkyParams` of csrc/sky.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("vertices", "faces", "points", "normals", "ways")),
        *((name, ctypes.c_int64) for name in ("vertex_count", "count", "point_count", "way_count", "pixels")),
        ("slack", ctypes.c_float),
    )


def _params(vertices: Tensor, faces: Tensor, points: Tensor, normals: Tensor, ways: Tensor, *how: float) -> _Params:
    given = (vertices, faces, points, normals, ways)
    counts = (len(each) for each in (vertices, faces, points, ways))
    return _Params(*(build.pointer(each) for each in given), *counts, *how)


def _cpu(
    vertices: Tensor, faces: Tensor, points: Tensor, normals: Tensor, ways: Tensor, pixels: int, slack: float
) -> Tensor:
    library = build.library("sky")
    assert library is not None
    out = points.new_empty(len(points))
    params = _params(vertices, faces, points, normals, ways, pixels, slack)
    if library.dl_sky(ctypes.byref(params), ctypes.c_void_p(build.pointer(out)), build.threads()):
        raise MemoryError("sky: out of memory; use fewer pixels, points or threads")
    return out


def _cuda(
    vertices: Tensor, faces: Tensor, points: Tensor, normals: Tensor, ways: Tensor, pixels: int, slack: float
) -> Tensor:
    out = points.new_empty(len(points))
    params = _params(vertices, faces, points, normals, ways, pixels, slack)
    heights = faces.new_full((2, len(ways), pixels, pixels), 0x40800000)  # 4 as a float: beyond the cube
    given = [params, *(ctypes.c_void_p(build.pointer(each)) for each in heights)]
    items = len(ways) * len(faces)
    nvrtc.launch("sky", "dl_sky_heights", points.device, ((items + 127) // 128, 1, 1), (128, 1, 1), given)
    blocks = ((len(points) + 127) // 128, 1, 1)
    nvrtc.launch("sky", "dl_sky", points.device, blocks, (128, 1, 1), [*given, ctypes.c_void_p(build.pointer(out))])
    return out


torch.library.define(
    "dreamlab::sky",
    "(Tensor vertices, Tensor faces, Tensor points, Tensor normals, Tensor ways, int pixels, float slack) -> Tensor",
)
torch.library.impl("dreamlab::sky", "CPU", _cpu)
torch.library.impl("dreamlab::sky", "CUDA", _cuda)
torch.library.register_fake(
    "dreamlab::sky", lambda vertices, faces, points, normals, ways, pixels, slack: points.new_empty(len(points))
)
