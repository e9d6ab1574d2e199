# SPDX-License-Identifier: Apache-2.0
"""From the numbers a field's head gives to a density per metre: activations, the biases that give a field a body at
the start, and signed distances (VolSDF, NeuS). Pure functions of tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dreamlab.core.safemath import safe_norm

ACTIVATIONS = ("softplus", "exp", "volsdf", "neus")
BIASES = ("none", "dreamfusion", "magic3d", "hollow")
# (scale, standard deviation as a part of the box's half side): DreamFusion, Magic3D, ProlificDreamer's scenes.
BIAS_DEFAULTS = {"none": (0.0, 1.0), "dreamfusion": (5.0, 0.2), "magic3d": (10.0, 0.5), "hollow": (-10.0, 0.5)}


def bias(kind: str, points: Tensor, scale: float, deviation: float) -> tuple[Tensor, Tensor]:
    """What is added before the activation [N], and its gradient in space [N, 3].

    dreamfusion  scale exp(-|x|^2 / 2 deviation^2)
    magic3d      scale (1 - |x| / deviation); hollow is the same with a negative scale: empty inside, full outside
    """
    if kind == "none":
        return torch.zeros_like(points[:, 0]), torch.zeros_like(points)
    if kind == "dreamfusion":
        value = scale * torch.exp(-points.square().sum(-1) / (2 * deviation**2))
        return value, -value[:, None] * points / deviation**2
    radius = safe_norm(points)
    return scale * (1 - radius[:, 0] / deviation), -scale / deviation * points / radius


def sphere(points: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """The signed distance to a sphere [N] and its gradient [N, 3]: what an SDF field starts from."""
    away = safe_norm(points)
    return away[:, 0] - radius, points / away


def activate(kind: str, raw: Tensor) -> Tensor:
    """Density per metre, softplus or exp; exp is cut at e^15, where nothing shines through anyway."""
    return softplus(raw) if kind == "softplus" else raw.clamp(max=15.0).exp()


def volsdf(distance: Tensor, beta: Tensor) -> Tensor:
    """VolSDF (arXiv:2106.12052), eq. 2-3: 1/beta times the Laplace distribution's CDF of -distance; [N] per metre."""
    half = 0.5 * torch.exp(-distance.abs() / beta)
    return torch.where(distance > 0, half, 1 - half) / beta


def neus(distance: Tensor, cosine: Tensor, sharpness: Tensor, width: Tensor) -> Tensor:
    """NeuS (arXiv:2106.10689), eq. 13: the density whose absorption over an interval of `width` is
    1 - Phi(d_end) / Phi(d_start), the distances at the ends extrapolated by the slope along the ray (cosine <= 0)."""
    reach = 0.5 * cosine * width
    start, end = (torch.nn.functional.logsigmoid((distance + side * reach) * sharpness) for side in (-1.0, 1.0))
    return (start - end).clamp(min=0) / width.clamp(min=1e-9)
