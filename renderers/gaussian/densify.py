# SPDX-License-Identifier: Apache-2.0
"""Growing and pruning Gaussians: pure functions of the parameters and of statistics that the caller owns.

`adaptive` is Kerbl et al. 2023 (arXiv:2308.04079), section 5.2: copy what is small, split what is large where the
gradient of the projected position is high, drop what is transparent. `mcmc` is Kheradmand et al. 2024
(arXiv:2404.09591): move the dead onto the living so that the picture hardly changes, and walk at random.

Parameters are a mapping name -> [N, ...] with means, log_scales, quats, logit_opacity and whatever else has rows.
Every function returns new parameters and `Rows`, which tells the optimiser whose moments go where.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ext.splat import SplatStats
from dreamlab.core.rotation import matrix
from dreamlab.core.safemath import inverse_sigmoid
from dreamlab.core.schedules import Progress, Schedule, ramp
from dreamlab.core.settings import setting
from dreamlab.core.types import Rows

KINDS = ("none", "adaptive", "mcmc")
MAX_COPIES = 51  # of one Gaussian in a relocation, as the authors have it
Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class DensifySettings:
    """When and how the count changes. Gradients are those of one view's mean loss, in normalised device units."""

    kind: str = setting("none", choices=KINDS)
    begin: float = setting(0.05, low=0, high=1, help="fraction of the stage")
    end: float = setting(0.6, low=0, high=1, help="fraction of the stage")
    every: int = setting(100, low=1, help="steps between changes of the count")
    cap: int = setting(20_000, low=1, high=10_000_000, help="never more Gaussians than this")
    gradient: float = setting(2e-4, above=0, help="adaptive: mean gradient per view that asks for more detail")
    split_above: float = setting(0.03, above=0, help="adaptive: metres; larger ones are split, smaller ones copied")
    max_scale: float = setting(0.5, above=0, help="adaptive: metres; larger ones are dropped")
    min_opacity: float = setting(0.005, above=0, high=0.5, help="below this a Gaussian is dropped (mcmc: moved)")
    reset_every: int = setting(0, low=0, help="adaptive: steps between opacity resets; 0: never")
    reset_opacity: float = setting(0.01, above=0, high=0.5, help="adaptive: opacities are cut down to this")
    growth: float = setting(1.05, low=1, high=2, help="mcmc: factor of the count per change")
    noise: Schedule = setting(ramp(80.0, 0.8, curve="exp"), low=0, help="mcmc: random walk, times the covariance")

    def due(self, progress: Progress) -> bool:
        inside = self.begin <= progress.fraction < self.end
        return self.kind != "none" and inside and (progress.step + 1) % self.every == 0

    def reset_due(self, progress: Progress) -> bool:
        step = progress.step + 1
        return bool(
            self.kind == "adaptive"
            and self.reset_every
            and step % self.reset_every == 0
            and progress.fraction < self.end
        )


def grow_and_prune(
    params: Params, stats: SplatStats, views: int, s: DensifySettings, generator: torch.Generator
) -> tuple[dict[str, Tensor], Rows]:
    """One round of adaptive control from statistics summed over all views of all batches since the last round.

    `views`: pictures per batch; a loss that is a mean over them gives each a gradient that many times too small.
    """
    count, opacity = len(params["means"]), params["logit_opacity"].sigmoid()
    largest = params["log_scales"].exp().amax(-1)
    mean = torch.nan_to_num(views * stats.grad_norm / stats.count.clamp(min=1))
    keep = (opacity >= s.min_opacity) & (largest <= s.max_scale)
    wants = (mean > s.gradient) & keep
    room = max(s.cap - int(keep.sum()), 0)
    if int(wants.sum()) > room:  # those with the highest gradient; ties by index
        first = torch.argsort(torch.where(wants, mean, -1.0), descending=True, stable=True)[:room]
        wants = torch.zeros_like(wants).index_fill(0, first, True)
    split, copied = wants & (largest > s.split_above), wants & (largest <= s.split_above)
    rows = torch.arange(count, device=opacity.device)
    stay, copies, parents = rows[keep & ~split], rows[copied], rows[split].repeat(2)
    source = torch.cat([stay, copies, parents])
    grown = {name: value[source] for name, value in params.items()}
    first_child = len(stay) + len(copies)
    child = {name: value[first_child:] for name, value in grown.items()}
    scales = child["log_scales"].exp()
    drawn = _normal(scales.shape, generator, scales)
    spread = (matrix(child["quats"]) @ (scales * drawn)[..., None])[..., 0]
    grown["means"] = torch.cat([grown["means"][:first_child], child["means"] + spread])
    grown["log_scales"] = torch.cat([grown["log_scales"][:first_child], child["log_scales"] - math.log(1.6)])
    fresh = torch.full((len(source) - len(stay),), -1, device=source.device, dtype=source.dtype)
    return grown, Rows(torch.cat([stay, fresh]))


def reset_opacity(params: Params, s: DensifySettings) -> tuple[dict[str, Tensor], Rows]:
    """Cut opacities down, so that what nobody needs stays transparent and is dropped later."""
    limit = inverse_sigmoid(s.reset_opacity).to(params["logit_opacity"])
    lowered = {**params, "logit_opacity": torch.minimum(params["logit_opacity"], limit)}
    return lowered, Rows(torch.arange(len(params["means"]), device=limit.device), fresh=("logit_opacity",))


def relocate_and_add(params: Params, s: DensifySettings, generator: torch.Generator) -> tuple[dict[str, Tensor], Rows]:
    """One round of MCMC: the dead go where the living are, by opacity, and the count grows towards the cap."""
    count = len(params["means"])
    opacity = params["logit_opacity"].sigmoid()
    dead = opacity <= s.min_opacity
    added = max(min(s.cap, int(s.growth * count)) - count, 0)
    rows = torch.arange(count, device=opacity.device)
    if bool(dead.all()):
        return dict(params), Rows(rows)
    guests = torch.cat([rows[dead], torch.arange(count, count + added, device=rows.device)])
    hosts = _sampled(torch.where(dead, 0.0, opacity), len(guests), generator)
    grown = {name: torch.cat([value, value[hosts[len(guests) - added :]]]) for name, value in params.items()}
    shares = torch.ones_like(rows).index_add(0, hosts, torch.ones_like(hosts))  # a host shares with its guests
    new_opacity, factor = shared(opacity, shares.clamp(max=MAX_COPIES))
    logit = torch.log(new_opacity) - torch.log1p(-new_opacity)
    moved = {**params, "logit_opacity": logit, "log_scales": params["log_scales"] + factor.log()[:, None]}
    for name, value in grown.items():
        value[hosts] = moved[name][hosts]  # one that is named twice gets the same twice
        value[guests] = moved[name][hosts]
    source = torch.cat([rows, torch.full((added,), -1, device=rows.device)])
    source[guests] = -1
    source[hosts] = -1  # their opacity and size have jumped: old moments would push them on
    return grown, Rows(source)


def shared(opacity: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and scale factor of `copies` [N] equal Gaussians that together look like one of `opacity` (eq. 9).

    The paper's double sum over i and k holds every power of the shared opacity o' with all its binomials, which add up
    to one: sum_k C(copies, k) (-1)^(k - 1) o'^k / sqrt(k).
    """
    o = opacity.double().clamp(1e-6, 1 - 1e-6)
    each, most = -torch.expm1(torch.log1p(-o) / copies), int(copies.max())
    terms = [[math.comb(n, k) * (-1) ** (k - 1) / math.sqrt(k) for k in range(1, most + 1)] for n in range(most + 1)]
    table = torch.tensor(terms, dtype=torch.float64, device=o.device).T
    total = torch.zeros_like(each)
    for power in table.flip(0):
        total = (total + power[copies]) * each
    return each.clamp(0.005, 1 - 1e-6).to(opacity), (o / total).to(opacity)


def walk(params: Params, strength: float, generator: torch.Generator) -> Tensor:
    """New means [N, 3] after one step of the random walk: covariance times noise, for the nearly transparent only."""
    scales, opacity = params["log_scales"].exp(), params["logit_opacity"].sigmoid()
    noise = _normal(scales.shape, generator, scales)
    free = torch.sigmoid(-100.0 * (opacity - 0.005))[:, None]
    turn = matrix(params["quats"])
    local = scales.square() * (turn.transpose(1, 2) @ (free * noise)[..., None])[..., 0]
    return params["means"] + strength * (turn @ local[..., None])[..., 0]


def _normal(shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device).to(like)


def _sampled(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` rows, with replacement, in proportion to `weights` [N]; by inversion, for any N."""
    total = weights.double().cumsum(0)
    drawn = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).to(total.device)
    return torch.searchsorted(total, drawn * total[-1], right=True).clamp(max=len(weights) - 1)
