# SPDX-License-Identifier: Apache-2.0
"""`density`: what a cloud of Gaussians adds up to on a grid."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from cuda_ext import backend as backends
from cuda_ext import build, nvrtc
from cuda_ext.check import check_alike, check_shape, require
from cuda_ext.reference import density as reference

__all__ = ["CHANNELS", "density"]

HOST_READS = 0  # on CUDA
CHANNELS = 4


def density(
    places: Tensor,  # [N, 3]
    turns: Tensor,  # [N, 3, 3]
    widths: Tensor,  # [N, 3]
    weights: Tensor,  # [N, 4]
    size: tuple[int, int, int],
    *,
    backend: str = "auto",
) -> Tensor:
    """Sums over N Gaussians of weights times exp(-d^2 / 2) at the cells of a grid, d being standard deviations from the
    middle: [4, X, Y, Z].

    places    of their middles, in cells: the grid's first cell lies at 0
    turns     rotations whose columns are the axes
    widths    standard deviations along them, in cells; at 1e-12 and below there is no Gaussian
    weights   what is added up; four of them
    size      X, Y, Z
    backend   auto, native or torch

    Beyond three standard deviations a Gaussian adds nothing; one that is not finite adds nothing anywhere. Work grows
    with the Gaussians and with the cells that they reach. Nothing is differentiable. On CUDA sums are atomic: equal
    calls may differ in their last bits.
    """
    check_shape("density", "places", places, ("N", 3))
    check_shape("density", "turns", turns, (len(places), 3, 3))
    check_shape("density", "widths", widths, (len(places), 3))
    check_shape("density", "weights", weights, (len(places), CHANNELS))
    check_alike("density", places=places, turns=turns, widths=widths, weights=weights)
    require(len(size) == 3 and min(size) >= 1 and max(size) < 1 << 15, f"density: size is three of 1 to 32767: {size}")
    require(len(places) < 1 << 31, f"density: at most 2^31 Gaussians, got {len(places)}")
    with torch.no_grad():
        if backends.choose("density", backend, places) == "torch":
            return reference.density(places, turns, widths, weights, size)
        given = (each.contiguous() for each in (places, turns, widths, weights))
        return torch.ops.dreamlab.density(*given, *size)


class _Params(ctypes.Structure):
    """`DensityParams` of csrc/density.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("places", "turns", "widths", "weights")),
        *((name, ctypes.c_int64) for name in ("count", "x", "y", "z")),
    )


def _cpu(places: Tensor, turns: Tensor, widths: Tensor, weights: Tensor, x: int, y: int, z: int) -> Tensor:
    library = build.library("density")
    assert library is not None
    out = places.new_empty(CHANNELS, x, y, z)
    pointers = [build.pointer(each) for each in (places, turns, widths, weights)]
    params = _Params(*pointers, len(places), x, y, z)
    if library.dl_density(ctypes.byref(params), ctypes.c_void_p(build.pointer(out)), build.threads()):
        raise MemoryError("density: out of memory; use fewer cells or threads")
    return out


def _cuda(places: Tensor, turns: Tensor, widths: Tensor, weights: Tensor, x: int, y: int, z: int) -> Tensor:
    out = places.new_zeros(CHANNELS, x, y, z)
    pointers = [build.pointer(each) for each in (places, turns, widths, weights)]
    params = _Params(*pointers, len(places), x, y, z)
    blocks, arguments = (len(places), 1, 1), [params, ctypes.c_void_p(build.pointer(out))]
    nvrtc.launch("density", "dl_density", places.device, blocks, (128, 1, 1), arguments)
    return out


torch.library.define(
    "dreamlab::density", "(Tensor places, Tensor turns, Tensor widths, Tensor weights, int x, int y, int z) -> Tensor"
)
torch.library.impl("dreamlab::density", "CPU", _cpu)
torch.library.impl("dreamlab::density", "CUDA", _cuda)
torch.library.register_fake(
    "dreamlab::density", lambda places, turns, widths, weights, x, y, z: places.new_empty(CHANNELS, x, y, z)
)
