# SPDX-License-Identifier: Apache-2.0
"""The engine of every distillation rule: branches -> one batched prediction -> residual -> loss, in one place.

Nearly every published rule is g = w(t) (sum_i coef_i eps(state_i, t_i, condition_i) + coef_n noise). A rule states its
branches; this file evaluates them in one network call, counts the calls, and turns g into a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dreamlab.core.schedules import Progress
from dreamlab.core.types import Condition, Guidance


@dataclass(frozen=True)
class State:
    """A noisy latent and its time."""

    z_t: Tensor  # [B, C, h, w]
    t_index: Tensor  # [B] long


@dataclass(frozen=True)
class Branch:
    """One prediction of the sum: where, told what, times what."""

    state: State
    condition: str  # a variant the guidance makes: text, null, negative, ...
    coef: float | Tensor = 1.0  # a Tensor is [B]


@dataclass
class Look:
    """What a rule may use in one step: the latents, the conditions, the model, the clock and its random streams."""

    guidance: Guidance
    z: Tensor  # [B, C, h, w], detached
    conditions: Mapping[str, Condition]
    progress: Progress
    noise_stream: torch.Generator
    time_stream: torch.Generator
    calls: int = field(default=0, init=False)  # network calls so far
    rows: int = field(default=0, init=False)  # pictures evaluated so far

    def timesteps(self, low: float, high: float, shared: bool = False) -> Tensor:
        """[B] t_index, uniform in the fractions [low, high] of the table, both ends included; `shared`: one for all."""
        last = len(self.guidance.table) - 1
        first, end = int(low * (last + 1)), min(int(high * (last + 1)), last)
        count = 1 if shared else len(self.z)
        drawn = torch.randint(min(first, end), end + 1, (count,), generator=self.time_stream)
        return drawn.to(self.z.device).expand(len(self.z)).contiguous()

    def noise(self) -> Tensor:
        """Standard normal, shaped like the latents."""
        stream = self.noise_stream
        drawn = torch.randn(self.z.shape, generator=stream, device=stream.device, dtype=self.z.dtype)
        return drawn.to(self.z.device)

    def predict(self, branches: Sequence[Branch]) -> list[Tensor]:
        """eps of every branch, [B, C, h, w] each, from one call of the network."""
        with torch.no_grad():
            eps = self.guidance.predict(
                torch.cat([branch.state.z_t for branch in branches]),
                torch.cat([branch.state.t_index for branch in branches]),
                Condition.cat([self.conditions[branch.condition] for branch in branches]),
            )
        self.calls += 1
        self.rows += len(eps)
        return list(eps.split(len(self.z)))


class System(Protocol):
    """A distillation rule: one class and one `Settings` per file of this folder."""

    paper: ClassVar[str]  # authors, year, arXiv number
    cost: ClassVar[str]  # pictures the network evaluates per view and step
    needs: ClassVar[frozenset[str]]  # condition variants it asks of the guidance

    def gradient(self, look: Look) -> Tensor:
        """g on the latents, [B, C, h, w]."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Distilled:
    """A term's loss, and what the telemetry wants to know of it."""

    loss: Tensor  # []
    grad_rms: Tensor  # []
    finite: Tensor  # [] bool: false when the network or the weighting gave a nan or an inf
    calls: int
    rows: int


def combine(
    look: Look,
    branches: Sequence[Branch],
    weight: Tensor,  # [B]
    noise: Tensor | None = None,  # [B, C, h, w]
    noise_coef: float = 0.0,
) -> Tensor:
    """w (sum_i coef_i eps_i + noise_coef noise). A branch whose coefficient is the number 0 is not evaluated."""
    used = [branch for branch in branches if isinstance(branch.coef, Tensor) or branch.coef != 0.0]
    total = torch.zeros_like(look.z)
    for branch, eps in zip(used, look.predict(used), strict=True):
        coef = branch.coef
        total = total + (per_row(coef, eps) if isinstance(coef, Tensor) else coef) * eps
    if noise is not None and noise_coef != 0.0:
        total = total + noise_coef * noise
    return per_row(weight, total) * total


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """[B] shaped to multiply [B, ...]."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))


def distil(system: System, look: Look, z: Tensor, clip: float | None = None) -> Distilled:
    """One term of one step: `z` [B, C, h, w] carries the graph back to the scene."""
    grad = system.gradient(look)
    finite = torch.isfinite(grad).all()
    loss, used = loss_from_gradient(z, grad, clip)
    return Distilled(loss, used.square().mean().sqrt(), finite, look.calls, look.rows)


def loss_from_gradient(z: Tensor, grad: Tensor, clip: float | None = None) -> tuple[Tensor, Tensor]:
    """A loss whose gradient on `z` is grad / B, and that gradient before the division.

    The reparametrised form 0.5 |z - sg(z - g)|^2 / B survives a gradient scaler; nan_to_num comes before the clamp,
    or a nan would pass through it.
    """
    grad = torch.nan_to_num(grad.detach(), nan=0.0, posinf=0.0, neginf=0.0)
    if clip is not None:
        grad = grad.clamp(-clip, clip)
    target = (z - grad).detach()
    return 0.5 * (z - target).square().sum() / len(z), grad


class Stateless:
    """For rules that remember nothing between steps."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise ValueError(f"this rule keeps no state, the checkpoint holds {', '.join(state)}")
