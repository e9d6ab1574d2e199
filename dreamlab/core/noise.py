# SPDX-License-Identifier: Apache-2.0
"""Noise tables and the conversions that let every model speak eps.

One state convention: variance preserving, z_t = a x0 + s n with a = sqrt(alpha_bar_t), s = sqrt(1 - alpha_bar_t).
One guidance convention: cfg = eps_null + scale (eps_text - eps_null). Papers that quote
eps_text + scale (eps_text - eps_null) mean scale + 1 here.

A model that answers in another way needs one line: eps_from_v (SD 2.1-v, Zero123++, CogVideoX; SVD, whose EDM form is
exactly v-prediction at alpha_bar = 1 / (1 + sigma^2)); eps_from_flow with `flow_state` (SD3, FLUX, SANA, Wan, LTX);
eps_from_x0. No model in sight is asked in sigma, so there is no EDM form here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WEIGHTS = ("sds", "uniform", "fantasia3d", "ism", "bsd")
TABLES = ("linear", "scaled_linear", "cosine", "flow")


@dataclass(frozen=True)
class NoiseTable:
    """alpha_bar for t_index = 0 .. T-1 (rising noise)."""

    alpha_bar: Tensor  # [T] float32 on the model's device; made in float64

    def __len__(self) -> int:
        return self.alpha_bar.shape[0]

    def signal_noise(self, t_index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) at `t_index` [M], shaped to multiply `like` [M, ...]."""
        bar = self.alpha_bar[t_index].to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))
        return bar.sqrt(), (1 - bar).sqrt()

    def add_noise(self, z: Tensor, noise: Tensor, t_index: Tensor) -> Tensor:
        a, s = self.signal_noise(t_index, z)
        return a * z + s * noise

    def x0(self, z_t: Tensor, eps: Tensor, t_index: Tensor) -> Tensor:
        return x0_from_eps(z_t, eps, *self.signal_noise(t_index, z_t))

    def ddim_move(self, z_t: Tensor, eps: Tensor, t_from: Tensor, t_to: Tensor) -> Tensor:
        """One deterministic DDIM step (eta = 0) in either direction; run in float32 or better."""
        a, s = self.signal_noise(t_to, z_t)
        return a * self.x0(z_t, eps, t_from) + s * eps

    def weight(self, name: str, t_index: Tensor) -> Tensor:
        """w(t) [M]: the weighting functions in use, by name."""
        bar = self.alpha_bar[t_index]
        if name == "sds":
            return 1 - bar
        if name == "fantasia3d":
            return bar.sqrt() * (1 - bar)
        if name == "ism":
            return ((1 - bar) / bar).sqrt()
        if name == "bsd":
            return bar.sqrt()
        if name == "uniform":
            return torch.ones_like(bar)
        raise ValueError(f"weight {name!r} is not one of {', '.join(WEIGHTS)}")

    def to(self, device: torch.device | str) -> NoiseTable:
        return NoiseTable(self.alpha_bar.to(device))


def make_table(kind: str, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseTable:
    """linear (DDPM betas), scaled_linear (Stable Diffusion), cosine (Nichol & Dhariwal 2021), flow (rectified flow)."""
    t = torch.arange(steps, dtype=torch.float64)
    if kind == "linear":
        bar = torch.cumprod(1 - torch.linspace(beta_start, beta_end, steps, dtype=torch.float64), 0)
    elif kind == "scaled_linear":
        root = torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), steps, dtype=torch.float64)
        bar = torch.cumprod(1 - root.square(), 0)
    elif kind == "cosine":
        # eq. 17 with the offset 0.008; betas are capped at 0.999 as in the paper, so alpha_bar never reaches 0.
        def curve(u: Tensor) -> Tensor:
            return torch.cos((u / steps + 0.008) / 1.008 * math.pi / 2).square()

        beta = (1 - curve(t + 1) / curve(t)).clamp(max=0.999)
        bar = torch.cumprod(1 - beta, 0)
    elif kind == "flow":
        s = (t + 1) / (steps + 1)  # strictly inside (0, 1): both ends have no eps or no x0
        bar = flow_bar(s)
    else:
        raise ValueError(f"noise table {kind!r} is not one of {', '.join(TABLES)}")
    return NoiseTable(bar.float())


def flow_bar(s: Tensor) -> Tensor:
    """alpha_bar of the variance-preserving state that holds the same x0 and n as the flow's at time s."""
    return (1 - s).square() / ((1 - s).square() + s.square())


def cfg(eps_null: Tensor, eps_text: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022) in the house convention: scale 1 is the text prediction."""
    return eps_null + scale * (eps_text - eps_null)


def rescaled(x0: Tensor, like: Tensor, share: float, group: int = 1) -> Tensor:
    """x0 with `share` of it at the deviation that `like` has (CFG rescale, Lin et al. 2023, arXiv:2305.08891, on the
    clean picture), over each `group` of rows; what is left of the rows is a group too.
    """
    parts = []
    for mine, theirs in zip(x0.split(group), like.split(group), strict=True):
        factor = (theirs.std() + 1e-8) / (mine.std() + 1e-8)
        parts.append((share * factor + (1 - share)) * mine)
    return torch.cat(parts)


def eps_from_v(z_t: Tensor, v: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """v = a n - s x0 (Salimans & Ho 2022)."""
    return s * z_t + a * v


def eps_from_x0(z_t: Tensor, x0: Tensor, a: Tensor, s: Tensor) -> Tensor:
    return (z_t - a * x0) / s


def x0_from_eps(z_t: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
    return (z_t - s * eps) / a


def eps_from_flow(z_s: Tensor, velocity: Tensor, s: Tensor) -> Tensor:
    """Rectified flow, z_s = (1 - s) x0 + s n and velocity n - x0: eps = z_s + (1 - s) velocity."""
    return z_s + (1 - s) * velocity


def flow_state(z_t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """The rectified-flow state and time of a variance-preserving one: (z_s, s); both hold the same x0 and n."""
    a, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    s = sigma / (a + sigma)
    return z_t / (a + sigma), s
