# SPDX-License-Identifier: Apache-2.0
"""Noise tables of pretrained models, from the configuration of their own scheduler.

Three kinds of clocks: an index into 1000 betas (also rescaled to no signal at the end, Lin et al. 2023,
arXiv:2305.08891, and shifted in SNR, CogVideoX); the time s of a rectified flow, z_s = (1 - s) x0 + s n, shifted
towards noise for large pictures (Esser et al. 2024, arXiv:2403.03206); and a list of sigmas, z = x0 + sigma n (SVD).
All become alpha_bar of the variance-preserving state that carries the same x0 and n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from dreamlab.core.errors import ModelError
from dreamlab.core.noise import NoiseTable, flow_bar
from guidance.latent.loading import library, quiet

BETAS = {  # schedulers with an index into betas, any of which reads the others' configuration
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler",
    "LCMScheduler", "TCDScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
}  # fmt: skip
FORMS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
LEAST_SIGNAL = 1e-7  # alpha_bar below which a state says nothing of x0, and x0 would be divided by it


@dataclass(frozen=True)
class Clock:
    """A noise table, what the network predicts, and what it is told as the time at each index."""

    table: NoiseTable
    form: str  # eps, v, x0, flow
    time: Tensor  # [T] float32: the index, s of a flow, ln(sigma) / 4

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.table.to(device), self.form, self.time.to(device))


def clock_of(config: Mapping[str, Any], where: str, form: str = "", shift: float = 0.0) -> Clock:
    """The clock of a scheduler's configuration; `form` and `shift` overrule what it says."""
    kind = config.get("_class_name")
    if kind in BETAS and not config.get("use_flow_sigmas"):
        return _betas(config, where, "DDIMScheduler", form)
    if kind in ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"):
        return _betas(config, where, "CogVideoXDDIMScheduler", form)
    if kind in ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "FlowMatchHeunDiscreteScheduler"):
        own = config.get("flow_shift" if kind == "UniPCMultistepScheduler" else "shift") or 1.0
        return flow_clock(shift or float(own))
    raise ModelError(f"{where}: a {kind} is none of the schedulers whose noise is known here")


def _betas(config: Mapping[str, Any], where: str, kind: str, form: str) -> Clock:
    predicts = str(config.get("prediction_type", "epsilon"))
    if predicts not in FORMS:
        raise ModelError(f"{where}: prediction_type {predicts!r} is none of {', '.join(FORMS)}")
    with quiet():
        scheduler = getattr(library("diffusers"), kind).from_config(dict(config))
    bar = scheduler.alphas_cumprod.float().clamp(min=LEAST_SIGNAL)
    return Clock(NoiseTable(bar), form or FORMS[predicts], torch.arange(len(bar), dtype=torch.float32))


def flow_clock(shift: float, steps: int = 1000) -> Clock:
    """Rectified flow: s strictly inside (0, 1), for both ends have no eps or no x0. s is kept beside alpha_bar, whose
    float32 has lost it near either end."""
    u = (torch.arange(steps, dtype=torch.float64) + 1) / (steps + 1)
    s = shift * u / (1 + (shift - 1) * u)
    return Clock(NoiseTable(flow_bar(s).float()), "flow", s.float())


def sigma_clock(low: float, high: float, steps: int = 1000) -> Clock:
    """Sigmas evenly spaced in their logarithm, z = x0 + sigma n; the time is ln(sigma) / 4. With c_in z = z_t at
    alpha_bar = 1 / (1 + sigma^2) SVD's preconditioned answer is v (Blattmann et al. 2023, arXiv:2311.15127)."""
    sigma = torch.linspace(math.log(low), math.log(high), steps, dtype=torch.float64).exp()
    return Clock(NoiseTable((1 / (1 + sigma.square())).float()), "v", (sigma.log() / 4).float())
