# SPDX-License-Identifier: Apache-2.0
"""Torch twin of the texture fetch: the specification of `cuda_ext.texture`.

A pyramid is stored flat, [B, P, C]: level 0 row by row, then level 1, and so on. Texel (i, j) of a level has its
centre at v = (i + 0.5) / height, u = (j + 0.5) / width; v grows downward, as in glTF.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def level_sizes(height: int, width: int, max_level: int | None = None) -> list[tuple[int, int]]:
    """(height, width) of every level: each half the one before, rounded down, until 1 x 1."""
    sizes = [(height, width)]
    while sizes[-1] != (1, 1) and (max_level is None or len(sizes) <= max_level):
        sizes.append((max(1, sizes[-1][0] // 2), max(1, sizes[-1][1] // 2)))
    return sizes


def mip_pyramid(image: Tensor, levels: int) -> Tensor:
    """[B, H, W, C] -> [B, P, C]: `levels` levels, each the exact area average of the one before.

    2n texels become n by averaging pairs. 2n + 1 texels become n by averaging windows (2n + 1) / n texels wide.
    """
    sizes = level_sizes(image.shape[1], image.shape[2], levels - 1)
    out = [image.flatten(1, 2)]
    for (height, width), (h, w) in pairwise(sizes):
        rows, columns = _average(height, h, image), _average(width, w, image)
        image = torch.einsum("ij,bjwc->biwc", rows, image)
        image = torch.einsum("kw,biwc->bikc", columns, image)
        out.append(image.flatten(1, 2))
    return torch.cat(out, 1)


def _average(size: int, half: int, like: Tensor) -> Tensor:
    """[half, size] weights of the area average."""
    if size == half:
        return torch.eye(size, dtype=like.dtype, device=like.device)
    weight = torch.zeros(half, size, dtype=like.dtype, device=like.device)
    i = torch.arange(half, device=like.device)
    if size == 2 * half:
        weight[i, 2 * i] = weight[i, 2 * i + 1] = 0.5
        return weight
    weight[i, 2 * i] = (half - i).to(like) / size
    weight[i, 2 * i + 1] = half / size
    weight[i, 2 * i + 2] = (i + 1).to(like) / size
    return weight


def mip_level(uv_dxy: Tensor, height: int, width: int) -> Tensor:
    """[..., 4] = (du/dx, du/dy, dv/dx, dv/dy) -> [...]: log2 of the longer side of a pixel's footprint, in texels."""
    texels = uv_dxy.new_tensor([width, width, height, height])
    du_dx, du_dy, dv_dx, dv_dy = (uv_dxy * texels).unbind(-1)
    square = torch.maximum(du_dx.square() + dv_dx.square(), du_dy.square() + dv_dy.square())
    return 0.5 * square.clamp(min=1e-12).log2()


def fetch(
    pyramid: Tensor, uv: Tensor, level: Tensor | None, height: int, width: int, levels: int, wrap: bool
) -> Tensor:
    """[B or 1, P, C], [B, H, W, 2], [B, H, W] or None -> [B, H, W, C]: bilinear, or trilinear between two levels.

    `height`, `width` are level 0's. uv or a level that is not finite reads as 0 and has no gradient.
    """
    sizes = level_sizes(height, width, levels - 1)
    uv = torch.where(torch.isfinite(uv).all(-1, keepdim=True), uv, 0)
    if level is None or levels == 1:
        return _bilinear(pyramid, uv, torch.zeros_like(uv[..., 0], dtype=torch.int64), sizes, wrap)
    level = torch.where(torch.isfinite(level), level, 0).clamp(0, levels - 1)
    lower = level.detach().floor().clamp(max=levels - 2).long()
    blend = (level - lower)[..., None]
    near, far = (_bilinear(pyramid, uv, lower + i, sizes, wrap) for i in (0, 1))
    return near + blend * (far - near)


def _bilinear(pyramid: Tensor, uv: Tensor, level: Tensor, sizes: list[tuple[int, int]], wrap: bool) -> Tensor:
    table = torch.tensor(sizes, device=uv.device)  # [L, 2]
    start = torch.cat([table.new_zeros(1), table.prod(1).cumsum(0)[:-1]])[level]
    height, width = table[level].unbind(-1)
    left, right, fx = _taps(uv[..., 0], width, wrap)
    top, bottom, fy = _taps(uv[..., 1], height, wrap)
    view = torch.arange(len(uv), device=uv.device)[:, None, None] if len(pyramid) > 1 else 0

    def texel(row: Tensor, column: Tensor) -> Tensor:
        return pyramid[view, start + row * width + column]

    upper = texel(top, left) + fx * (texel(top, right) - texel(top, left))
    lower = texel(bottom, left) + fx * (texel(bottom, right) - texel(bottom, left))
    return upper + fy * (lower - upper)


def _taps(u: Tensor, size: Tensor, wrap: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The two texels around coordinate u and the weight [..., 1] of the second."""
    if wrap:
        x = (u - u.detach().floor()) * size - 0.5
    else:
        x = torch.minimum((u * size - 0.5).clamp(min=0), (size - 1).to(u))
    first = x.detach().floor().long()
    fraction = (x - first)[..., None]
    if wrap:  # u - floor(u) may round up to 1
        return torch.remainder(first, size), torch.remainder(first + 1, size), fraction
    return first, torch.minimum(first + 1, size - 1), fraction
