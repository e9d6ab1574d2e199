# SPDX-License-Identifier: Apache-2.0
"""DDIM inversion: the deterministic way from a clean latent up to a noisy one (Song et al. 2021, arXiv:2010.02502).

Shared by the interval rules (ISM, TSM, CSM). One time for the whole batch, as their papers have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamlab.core.noise import WEIGHTS, cfg
from dreamlab.core.schedules import Schedule, When, ramp
from dreamlab.core.settings import setting
from systems.engine.residual import Branch, Look, State
from systems.engine.rule import NoiseSettings


def warming(steps: int) -> Schedule:
    """The upper end of t in LucidDreamer and its kin: from 0.98 down to 0.5 over the first `steps`."""
    return ramp(0.98, 0.5, end=When(steps, "steps"))


@dataclass(frozen=True)
class PathSettings(NoiseSettings):
    """What the rules that walk an inversion have in common; the defaults are LucidDreamer's."""

    against: str = setting("null", choices=("null", "negative"), help="what the text is held against")
    t_max: Schedule = setting(warming(1500), low=0, high=1)
    stride: float = setting(0.2, above=0, high=1, help="of the inversion's steps, fraction of the table")
    max_steps: int = setting(5, low=1, high=100)
    offset: float = setting(0.1, low=0, help="strength of the channel-wise offset noise")
    weight: str = setting("ism", choices=WEIGHTS, help="w(t)")

    def asks(self) -> frozenset[str]:
        return frozenset({self.against})


def at(look: Look, t: int) -> Tensor:
    """[B] t_index, all equal."""
    return torch.full((len(look.z),), t, device=look.z.device)


def offset_noise(look: Look, strength: float) -> Tensor:
    """Normal noise plus a constant per channel, shared by the batch (0.1 in LucidDreamer)."""
    noise = look.noise()
    stream = look.noise_stream
    channels = torch.randn(1, look.z.shape[1], 1, 1, generator=stream, device=stream.device, dtype=look.z.dtype)
    return noise + strength * channels.to(look.z.device)


def on_path(look: Look, state: State, guidance: float = 1.0) -> Tensor:
    """eps that an inversion follows: unconditional, or led towards the negative prompt by a scale above 1."""
    names = ("null",) if guidance == 1.0 else ("null", "negative")
    null, *negative = look.predict([Branch(state, name) for name in names])
    return cfg(null, negative[0], guidance) if negative else null


def invert(look: Look, target: int, path: PathSettings, guidance: float = 1.0) -> State:
    """From z to time `target` in at most `max_steps` DDIM steps of `stride`, along `on_path`.

    Starts at max(target - stride max_steps, 0), where noise is added; at 0 that is next to nothing, which is why the
    end depends so little on the draw. target 0 returns at once, without a network call.
    """
    table = look.guidance.table
    stride = look.index(path.stride)
    t = max(target - stride * path.max_steps, 0)
    z_t = table.add_noise(look.z, offset_noise(look, path.offset), at(look, t))
    while t < target:
        eps = on_path(look, State(z_t, at(look, t)), guidance)
        after = min(t + stride, target)
        z_t = table.ddim_move(z_t, eps, at(look, t), at(look, after))
        t = after
    return State(z_t, at(look, t))
