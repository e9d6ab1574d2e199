# SPDX-License-Identifier: Apache-2.0
"""Colours as far apart as they look: OKLab (Ottosson 2020)."""

from __future__ import annotations

from torch import Tensor


def oklab(rgb: Tensor) -> Tensor:
    """Linear sRGB [..., 3] -> OKLab."""
    to_cone = rgb.new_tensor(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = rgb.new_tensor(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return (rgb @ to_cone.T).clamp(min=0) ** (1 / 3) @ to_lab.T
