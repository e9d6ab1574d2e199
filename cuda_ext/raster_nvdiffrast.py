# SPDX-License-Identifier: Apache-2.0
"""`raster`, `interpolate`, `texture` and `antialias` on nvdiffrast (NVIDIA Source Code License, non-commercial use
only; CUDA only), for those who ask for it; written to its documentation of 2025 (0.4).

Its row 0 is the bottom, so y is turned over on the way in: rows, and changes per pixel down, are then ours. Its
triangle numbers start at 1, as ours. Mip levels are chosen by our rule and handed over (its own takes the longer axis
of the footprint's ellipse). What differs: which side of a border a pixel's centre falls on, by rounding; its `depth`
has no gradient; textures have mip levels while their sides are even; a picture has fewer than 2^24 triangles.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Protocol

import torch
from torch import Tensor

from cuda_ext.check import require
from cuda_ext.reference.texture import level_sizes

MOST_TRIANGLES = 1 << 24  # their numbers travel as float32


class Nvdiffrast(Hashable, Protocol):
    """What is called of `nvdiffrast.torch`."""

    def RasterizeCudaContext(self, device: torch.device) -> object: ...

    def rasterize(
        self, glctx: object, pos: Tensor, tri: Tensor, resolution: tuple[int, int], *, grad_db: bool
    ) -> tuple[Tensor, Tensor]: ...

    def interpolate(
        self, attr: Tensor, rast: Tensor, tri: Tensor, *, rast_db: Tensor | None, diff_attrs: str | None
    ) -> tuple[Tensor, Tensor]: ...

    def texture(
        self, tex: Tensor, uv: Tensor, *, mip_level_bias: Tensor | None, filter_mode: str, boundary_mode: str,
        max_mip_level: int,
    ) -> Tensor: ...  # fmt: skip

    def antialias(self, color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor) -> Tensor: ...


def raster(
    clip: Tensor, triangles: Tensor, height: int, width: int, package: Nvdiffrast | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `cuda_ext.raster.raster`: inputs already checked; `package` is nvdiffrast when missing."""
    nvdiffrast = _nvdiffrast() if package is None else package
    require(
        len(triangles) < MOST_TRIANGLES, f"raster: nvdiffrast draws fewer than 2^24 triangles, not {len(triangles)}"
    )
    shape = (len(clip), height, width)
    if not (len(triangles) and clip.numel()):
        none = clip.new_zeros(*shape, 4) + 0 * clip.sum()
        return none[..., 0].int(), none[..., :2], none[..., 2], none.detach()
    given = (_turned(clip), triangles.int().contiguous(), (height, width))
    seen, slope = nvdiffrast.rasterize(_context(nvdiffrast, clip.device), *given, grad_db=False)
    return seen[..., 3].int(), seen[..., :2], seen[..., 2], slope.detach()


def interpolate(
    attributes: Tensor,
    triangles: Tensor,
    triangle: Tensor,
    uv: Tensor,
    uv_dxy: Tensor | None = None,
    package: Nvdiffrast | None = None,
) -> tuple[Tensor, Tensor | None]:
    """See `cuda_ext.interpolate.interpolate`; arguments as of its twin."""
    nvdiffrast = _nvdiffrast() if package is None else package
    shape = (*triangle.shape, attributes.shape[-1])
    if not (len(triangles) and attributes.numel()):
        none = attributes.new_zeros(shape) + 0 * attributes.sum()
        return none, None if uv_dxy is None else none[..., None].expand(*shape, 2)
    value, slope = nvdiffrast.interpolate(
        attributes.contiguous(), _packed(triangle, uv, None), triangles.int().contiguous(),
        rast_db=None if uv_dxy is None else uv_dxy.detach().contiguous(), diff_attrs=None if uv_dxy is None else "all",
    )  # fmt: skip
    return value, None if uv_dxy is None else slope.reshape(*shape, 2)


def fetch(
    image: Tensor, uv: Tensor, level: Tensor | None, levels: int, boundary: str, package: Nvdiffrast | None = None
) -> Tensor:
    """[B or 1, h, w, C], [B, H, W, 2], [B, H, W] or None -> [B, H, W, C]; see `cuda_ext.texture.texture`."""
    nvdiffrast = _nvdiffrast() if package is None else package
    if not uv.numel():
        return image.new_zeros(*uv.shape[:3], image.shape[3]) + 0 * (image.sum() + uv.sum())
    level = level if levels > 1 else None
    sizes = level_sizes(image.shape[1], image.shape[2], levels - 1)
    odd = [(h, w) for h, w in sizes[:-1] if any(side > 1 and side % 2 for side in (h, w))]
    if level is not None and odd:
        raise ValueError(
            f"texture: nvdiffrast halves even sides alone, not {odd[0][0]} x {odd[0][1]}; set max_level, or use native"
        )
    mode = "linear" if level is None else "linear-mipmap-linear"
    return nvdiffrast.texture(
        image.contiguous(), uv.contiguous(), mip_level_bias=None if level is None else level.contiguous(),
        filter_mode=mode, boundary_mode=boundary, max_mip_level=levels - 1,
    )  # fmt: skip


def antialias(
    color: Tensor,
    triangle: Tensor,
    depth: Tensor,
    clip: Tensor,
    triangles: Tensor,
    neighbours: Tensor,
    package: Nvdiffrast | None = None,
) -> Tensor:
    """See `cuda_ext.antialias.antialias`; arguments as of its twin. It finds the neighbours itself."""
    del neighbours
    nvdiffrast = _nvdiffrast() if package is None else package
    if not (len(triangles) and color.numel()):
        return color + 0 * clip.sum()
    seen = _packed(triangle, depth.new_zeros(*depth.shape, 2), depth)
    return nvdiffrast.antialias(color.contiguous(), seen, _turned(clip), triangles.int().contiguous())


def _turned(clip: Tensor) -> Tensor:
    return (clip * clip.new_tensor([1.0, -1.0, 1.0, 1.0])).contiguous()


def _packed(triangle: Tensor, uv: Tensor, depth: Tensor | None) -> Tensor:
    """[B, H, W, 4] as its rasteriser returns it: u, v, z/w, 1 + triangle."""
    depth = torch.zeros_like(uv[..., 0]) if depth is None else depth
    return torch.cat([uv, depth[..., None], triangle[..., None].to(uv.dtype)], -1).contiguous()


def _nvdiffrast() -> Nvdiffrast:
    import nvdiffrast.torch

    return nvdiffrast.torch


@functools.cache
def _context(package: Nvdiffrast, device: torch.device) -> object:
    """One per device: it keeps buffers that grow to the largest picture."""
    return package.RasterizeCudaContext(device)
