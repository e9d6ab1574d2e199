# SPDX-License-Identifier: Apache-2.0
"""Real spherical harmonics of unit directions, orthonormal on the sphere, without the Condon-Shortley signs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

COSINE_BANDS = (0, 1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4)  # degrees of `cosine_harmonics`
C = 1 / math.sqrt(math.pi)
S3, S5, S15, S35, R2 = math.sqrt(3), math.sqrt(5), math.sqrt(15), math.sqrt(35), math.sqrt(2)


def harmonics(d: Tensor) -> Tensor:
    """[..., 3] -> [..., 9]: degrees 0, 1 and 2."""
    x, y, z = d.unbind(-1)
    values = [
        0.5 * C * torch.ones_like(x), 0.5 * S3 * C * y, 0.5 * S3 * C * z, 0.5 * S3 * C * x,
        0.5 * S15 * C * x * y, 0.5 * S15 * C * y * z, 0.25 * S5 * C * (3 * z * z - 1), 0.5 * S15 * C * x * z,
        0.25 * S15 * C * (x * x - y * y),
    ]  # fmt: skip
    return torch.stack(values, -1)


def cosine_harmonics(d: Tensor) -> Tensor:
    """[..., 3] -> [..., 18]: degrees 0, 1, 2 and 4, of which a clamped cosine is made (its degree 3 is zero)."""
    x, y, z = d.unbind(-1)
    x2, y2, z2 = x * x, y * y, z * z
    fourth = [
        0.75 * S35 * C * x * y * (x2 - y2), 0.75 * S35 / R2 * C * y * z * (3 * x2 - y2),
        0.75 * S5 * C * x * y * (7 * z2 - 1), 0.75 * S5 / R2 * C * y * z * (7 * z2 - 3),
        0.1875 * C * (35 * z2 * z2 - 30 * z2 + 3), 0.75 * S5 / R2 * C * x * z * (7 * z2 - 3),
        0.375 * S5 * C * (x2 - y2) * (7 * z2 - 1), 0.75 * S35 / R2 * C * x * z * (x2 - 3 * y2),
        0.1875 * S35 * C * (x2 * (x2 - 3 * y2) - y2 * (3 * x2 - y2)),
    ]  # fmt: skip
    return torch.cat([harmonics(d), torch.stack(fourth, -1)], -1)
