# SPDX-License-Identifier: Apache-2.0
"""Pictures drawn by a pretrained model itself: to see what it knows, to start from (`--image`), or to refine one.

The steps are those of the library's schedulers, made from the model's own noise table; every random number comes from
the generator that is handed in. Distillation never steps a scheduler: those keep state from call to call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.noise import cfg
from dreamlab.core.types import Condition
from guidance.latent.loading import library, quiet
from guidance.latent.model import LatentModel


@dataclass(frozen=True)
class Sampling:
    """How a picture is drawn."""

    steps: int = 25
    scale: float = 7.5  # of guidance; 1: none
    strength: float = 1.0  # of the noise that a given picture starts from; 1: nothing of it is left
    scales: tuple[float, ...] = ()  # of each row, where they differ


def drawn(
    model: LatentModel,
    told: Condition,
    other: Condition,
    shape: tuple[int, ...],  # of the latents, a row for each of the conditions'
    generator: torch.Generator,  # on the host: the same picture on every device
    how: Sampling | None = None,
    start: Tensor | None = None,  # latents to refine
) -> Tensor:
    """Latents of pictures that the model drew."""
    how = how or Sampling()
    if not 0 < how.strength <= 1 or how.steps < 1:
        raise InputError(f"drawing: strength {how.strength:g} must be in (0, 1], and steps {how.steps} at least 1")
    flow = model.clock.form == "flow"
    scheduler = _flow(model, how.steps) if flow else _variance_preserving(model, how.steps)
    times = scheduler.timesteps[len(scheduler.timesteps) - max(round(how.strength * how.steps), 1) :]
    noise = torch.randn(shape, generator=generator).to(model.device)
    if start is None:
        z = noise if flow else noise * scheduler.init_noise_sigma
    elif flow:
        z = scheduler.scale_noise(start, times[:1], noise)
    else:
        z = scheduler.add_noise(start, noise, times[:1])
    if start is not None and len(times) < len(scheduler.timesteps):
        scheduler.set_begin_index(len(scheduler.timesteps) - len(times))
    scale = torch.tensor(how.scales, device=model.device).reshape(-1, 1, 1, 1) if how.scales else how.scale
    for time in times:
        said = guided(model, z, float(time), told, other, scale, flow)
        z = scheduler.step(said, time, z).prev_sample
    return z


def guided(
    model: LatentModel, z: Tensor, time: float, told: Condition, other: Condition, scale: float | Tensor, flow: bool
) -> Tensor:
    """What the scheduler is handed: eps, or a flow's velocity; both halves of guidance in one call."""
    rows, alone = len(z), not isinstance(scale, Tensor) and scale == 1.0
    both, condition = (z, told) if alone else (torch.cat([z, z]), Condition.cat([other, told]))
    at = torch.full((len(both),), time, device=z.device)
    said = model.velocity(both, at / 1000, condition) if flow else model.predict(both, at.long(), condition)
    return said if alone else cfg(said[:rows], said[rows:], scale)


def _variance_preserving(model: LatentModel, steps: int) -> Any:
    """DPM-Solver++ of second order on the model's own alpha_bar, told eps, as `predict` answers."""
    bar = model.table.alpha_bar.double().cpu()
    betas = 1 - bar / torch.cat([bar.new_ones(1), bar[:-1]])
    with quiet():
        kind = library("diffusers").DPMSolverMultistepScheduler
        scheduler = kind(
            num_train_timesteps=len(bar), trained_betas=betas.clamp(max=0.999).numpy(), prediction_type="epsilon",
            timestep_spacing="trailing", algorithm_type="dpmsolver++", final_sigmas_type="zero",
        )  # fmt: skip
    scheduler.set_timesteps(steps, device=model.device)
    return scheduler


def _flow(model: LatentModel, steps: int) -> Any:
    """Euler along the flow, at the shift of the model's own clock."""
    middle, count = len(model.table) // 2, len(model.table)
    u, s = (middle + 1) / (count + 1), float(model.clock.time[middle])
    shift = s * (1 - u) / (u * (1 - s))
    with quiet():
        scheduler = library("diffusers").FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps, device=model.device)
    return scheduler
