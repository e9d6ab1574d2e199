# SPDX-License-Identifier: Apache-2.0
"""Torch twin of attribute interpolation: the specification of `cuda_ext.interpolate`."""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate(
    attributes: Tensor, triangles: Tensor, triangle: Tensor, uv: Tensor, uv_dxy: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """[B or 1, V, C], [T, 3], [B, H, W], [B, H, W, 2], [B, H, W, 4] -> [B, H, W, C], [B, H, W, C, 2].

    value = u a_0 + v a_1 + (1 - u - v) a_2, zero where there is no triangle. The second result, the change of the
    value per pixel in x and in y, exists when `uv_dxy` is given, and has a gradient to `attributes` only.
    """
    view, row, column = triangle.nonzero(as_tuple=True)
    corner = triangles.long()[triangle[view, row, column].long() - 1]  # [n, 3]
    a0, a1, a2 = attributes[(view if len(attributes) > 1 else torch.zeros_like(view))[:, None], corner].unbind(1)
    u, v = uv[view, row, column].unbind(-1)
    value = u[:, None] * (a0 - a2) + v[:, None] * (a1 - a2) + a2
    shape = (*triangle.shape, attributes.shape[-1])
    out = attributes.new_zeros(shape).index_put((view, row, column), value)
    if uv_dxy is None:
        return out, None
    ux, uy, vx, vy = uv_dxy.detach()[view, row, column, :, None].unbind(1)
    slope = torch.stack([ux * (a0 - a2) + vx * (a1 - a2), uy * (a0 - a2) + vy * (a1 - a2)], -1)
    return out, attributes.new_zeros(*shape, 2).index_put((view, row, column), slope)
