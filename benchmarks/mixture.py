# SPDX-License-Identifier: Apache-2.0
"""VSD on a distribution of two known pictures, 70 % and 30 %: which shares and which spread its particles end with.

The variational score is either exact, the closed form of the particles as they stand (each a point, noised:
q_t = 1/N sum_i N(a x_i, s^2 I)), or the rule's own network. Times are drawn from the whole table, or from high noise
first (t_min falls from 0.7 to 0.02 over three quarters of the run). The truth: share 0.70, spread 0.300.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlab.core.cameras import turntable
from dreamlab.core.noise import make_table
from dreamlab.core.schedules import Progress, Schedule, When, constant, ramp
from dreamlab.core.types import Frames, Prompt
from dreamlab.metrics.figures import Check, report
from guidance.oracle import Oracle, centred, mixture_eps
from guidance.shared.worlds import Views, World
from systems.engine.residual import Look, distil
from systems.vsd import VSD

SIZE, SPREAD, START, RATE, T_MAX = 4, 0.3, 0.8, 0.1, 0.98
LEVELS, SHARES = torch.tensor([0.15, 0.85]), torch.tensor([0.7, 0.3])  # two gray pictures: -0.7 and 0.7 as latents
TIMES = {"all": constant(0.02), "high first": ramp(0.7, 0.02, end=When(0.75))}


def start(count: int, seed: int) -> Tensor:
    """[N, 3, S, S] particles between the two pictures."""
    return START * torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def exact(count: int, t_min: Schedule, steps: int = 400, seed: int = 0) -> Tensor:
    """VSD whose variational score is the particles' own, in closed form."""
    table, stream = make_table("cosine"), torch.Generator().manual_seed(seed + 100)
    z = start(count, seed).flatten(1)
    log_own = torch.full((count,), -math.log(count))
    for i in range(steps):
        low = round(t_min.at(Progress(i, steps)) * len(table))
        t = torch.randint(low, round(T_MAX * len(table)) + 1, (count,), generator=stream)
        a, s = table.signal_noise(t, z)
        z_t = a * z + s * torch.randn(z.shape, generator=stream)
        wanted = eps_of(modes().flatten(1), SHARES.log(), SPREAD, z_t, a, s)
        z = z - RATE * (wanted - eps_of(z, log_own, 0.0, z_t, a, s))
    return z.reshape(count, 3, SIZE, SIZE)


def eps_of(points: Tensor, log_weight: Tensor, spread: float, z_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """[N, D] exact eps of a mixture about points [K, D] with weights [K]."""
    centre, offset = centred(points[None])
    count = len(z_t)
    rows = centre.expand(count, -1), offset.expand(count, -1, -1)
    return mixture_eps(z_t, a, s, rows[0], rows[1], log_weight.expand(count, -1), spread)


def network(count: int, t_min: Schedule, steps: int = 400, seed: int = 0, **settings: Any) -> Tensor:
    """The rule itself, at guidance scale 1."""
    asked = {"width": 8, **settings}
    rule = VSD(VSD.Settings(cfg=constant(1.0), weight="uniform", t_min=t_min, t_max=constant(T_MAX), **asked))
    oracle, cameras = Oracle(Oracle.Settings(spread=SPREAD, others=0), world), turntable(count)
    blank = torch.zeros(count, SIZE, SIZE, 1)
    frames = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(count, 3))
    conditions = oracle.condition(Prompt("two pictures"), cameras, frames)
    streams = torch.Generator().manual_seed(seed + 100), torch.Generator().manual_seed(seed + 101)
    z = start(count, seed)
    for i in range(steps):
        z = z.requires_grad_()
        distil(rule, Look(oracle, z.detach(), conditions, Progress(i, steps), *streams), z).loss.backward()
        assert z.grad is not None
        z = (z - RATE * count * z.grad).detach()
    return z


def world(prompt: Prompt) -> World:
    def look(cameras: Any, size: int) -> Views:
        alpha = torch.ones(2, len(cameras), size, size, 1)
        return Views(LEVELS[:, None, None, None, None] * alpha.expand(-1, -1, -1, -1, 3), alpha)

    return World(SHARES.log(), SHARES.log(), SHARES.log(), look)


def modes() -> Tensor:
    """[2, 3, S, S]"""
    return (2 * LEVELS - 1)[:, None, None, None].expand(2, 3, SIZE, SIZE)


def measured(z: Tensor) -> tuple[float, float]:
    """The share of particles nearest to the first picture, and the rms distance of all to their nearest."""
    distance = (z[None] - modes()[:, None]).square().mean((2, 3, 4))  # [mode, particle]
    return float((distance.argmin(0) == 0).float().mean()), float(distance.amin(0).mean().sqrt())


def measure(seeds: int = 3) -> list[Check]:
    """A line per way: shares of each seed, their mean, the mean spread."""
    ways: dict[str, Callable[..., Tensor]] = {
        f"exact score, {count} particles, {name}": lambda seed, count=count, times=times: exact(count, times, seed=seed)
        for count in (16, 64, 256)
        for name, times in TIMES.items()
    }
    for base, lr in (("prior", 1e-3), ("prior", 1e-2), ("none", 3e-3), ("none", 1e-2)):
        for name, times in TIMES.items():
            ways[f"network, base {base}, lr {lr:g}, 64 particles, {name}"] = (
                lambda seed, base=base, lr=lr, times=times: network(64, times, seed=seed, base=base, lr=lr)
            )
    checks = []
    for name, way in ways.items():
        began = time.process_time()
        found = [measured(way(seed=seed)) for seed in range(seeds)]
        share, spread = (sum(column) / seeds for column in zip(*found, strict=True))
        each, seconds = ", ".join(f"{one:.2f}" for one, _ in found), time.process_time() - began
        print(f"{name}: share {share:.2f} ({each}), spread {spread:.3f}, {seconds:.0f} CPU s", flush=True)
        checks += [Check(f"{name}: share", round(share, 3), "of 0.70", None)]
        checks += [Check(f"{name}: spread", round(spread, 3), "of 0.300", None)]
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixture", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    return 0 if report(measure(given.seeds), given.json) else 1


if __name__ == "__main__":
    raise SystemExit(main())
