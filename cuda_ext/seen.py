# SPDX-License-Identifier: Apache-2.0
"""`seen`: colours of surface points as pictures of the surface show them."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.raster import register, run
from cuda_ext.reference import seen as reference

__all__ = ["seen"]

HOST_READS = 0  # on CUDA


def seen(
    points: Tensor,  # [M, 3]
    normals: Tensor,  # [M, 3]
    layers: Tensor,  # [B, S, S, 5]
    eyes: Tensor,  # [B, 3]
    to_camera: Tensor,  # [B, 3, 4]
    focal: Tensor,  # [B]
    *,
    grazing: float,
    behind: float,
    backend: str = "auto",
) -> Tensor:
    """Sums over B pictures of colour times weight, and of the weights, at M points of a surface: [M, 4].

    normals    unit
    layers     of each picture: colour, the surface's depth along the camera's axis, 1 where both can be trusted
    eyes       where the cameras are
    to_camera  from the world to the cameras, OpenGL axes
    focal      in pixels of these pictures; the principal point is their middle
    grazing    cosine between the normal and the way to the eye above which a picture counts; not negative
    behind     pixels, over that cosine, by which a point may lie behind the depth at its place
    backend    auto, native or torch

    A weight is cos^4 over the squared depth. Nothing is differentiable.
    """
    check_shape("seen", "points", points, ("M", 3))
    check_shape("seen", "normals", normals, (len(points), 3))
    check_shape("seen", "layers", layers, ("B", "S", layers.shape[1] if layers.ndim > 1 else "S", 5))
    check_shape("seen", "eyes", eyes, (len(layers), 3))
    check_shape("seen", "to_camera", to_camera, (len(layers), 3, 4))
    check_shape("seen", "focal", focal, (len(layers),))
    check_alike("seen", points=points, normals=normals, layers=layers, eyes=eyes, to_camera=to_camera, focal=focal)
    require(layers.shape[1] >= 1, "seen: the pictures have no pixels")
    require(grazing >= 0, f"seen: grazing must not be negative, got {grazing}")
    with torch.no_grad():
        if backends.choose("seen", backend, points) == "torch":
            return reference.seen(points, normals, layers, eyes, to_camera, focal, grazing, behind)
        given = (each.contiguous() for each in (points, normals, layers, eyes, to_camera, focal))
        return torch.ops.dreamlab.seen(*given, grazing, behind)


class _Params(ctypes.Structure):
    """`SeenParams` of csrc/seen.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("points", "normals", "layers", "eyes", "to_camera", "focal")),
        *((name, ctypes.c_int64) for name in ("count", "views", "size")),
        *((name, ctypes.c_float) for name in ("grazing", "behind")),
    )


def _like(points: Tensor, *_: object) -> Tensor:
    return points.new_empty(len(points), 4)


def _seen(
    points: Tensor, normals: Tensor, layers: Tensor, eyes: Tensor, to_camera: Tensor, focal: Tensor, *how: float
) -> Tensor:
    out = _like(points)
    pointers = [build.pointer(each) for each in (points, normals, layers, eyes, to_camera, focal)]
    run("seen", "dl_seen", _Params(*pointers, len(points), *layers.shape[:2], *how), [out], len(points))
    return out


INPUTS = "Tensor points, Tensor normals, Tensor layers, Tensor eyes, Tensor to_camera, Tensor focal"
register((("seen", f"({INPUTS}, float grazing, float behind) -> Tensor", _seen, _like),))
