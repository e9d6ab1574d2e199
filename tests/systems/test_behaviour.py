# SPDX-License-Identifier: Apache-2.0
"""What the rules do, against an exact score: claims of their papers that a known mixture can decide."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Frames, Prompt
from guidance.oracle import Oracle
from guidance.shared.worlds import Views, World
from systems.asd import ASD
from systems.cds import CDS
from systems.engine.inversion import PathSettings, at, invert
from systems.engine.residual import Branch, Look, State, distil
from systems.sds import SDS

SIZE, SPREAD, BATCH = 4, 0.3, 64
LEVELS = torch.tensor([0.15, 0.85])  # two gray pictures: at -0.7 and +0.7 in latents
WEIGHTS = torch.tensor([0.7, 0.3])


def world(prompt: Prompt) -> World:
    def look(cameras: Cameras, size: int) -> Views:
        alpha = torch.ones(2, len(cameras), size, size, 1)
        return Views(LEVELS[:, None, None, None, None] * alpha.expand(-1, -1, -1, -1, 3), alpha)

    return World(WEIGHTS.log(), WEIGHTS.log(), WEIGHTS.log(), look)


def scene(z: Tensor, seed: int = 0) -> Look:
    """A step of an oracle that knows the two pictures; every row of z is a particle of its own."""
    oracle = Oracle(Oracle.Settings(spread=SPREAD, others=0), world)
    blank = torch.zeros(len(z), SIZE, SIZE, 1)
    frames = Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.zeros(len(z), 3))
    conditions = oracle.condition(Prompt("x"), turntable(len(z)), frames)
    streams = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    return Look(oracle, z.detach(), conditions, Progress(0, 1), *streams)


def particles(seed: int = 0) -> Tensor:
    return 0.8 * torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def descend(system: Any, steps: int, rate: float) -> Tensor:
    z = particles()
    for i in range(steps):
        z = z.requires_grad_()
        distil(system, scene(z, seed=2 * i), z).loss.backward()
        z = (z - rate * BATCH * z.grad).detach()
    return z


def modes() -> Tensor:
    return (2 * LEVELS - 1)[:, None, None, None, None].expand(-1, 1, 3, SIZE, SIZE)


def test_sds_seeks_modes_and_loses_the_spread() -> None:
    """Poole et al.: the objective is mode seeking. Particles end at the centres, nearer than a fair sample would."""
    end = descend(SDS(SDS.Settings(cfg=constant(1.0), weight="uniform", t_max=constant(0.5))), 250, 0.05)
    distance = (end[None] - modes()).square().mean((2, 3, 4)).sqrt()  # [mode, particle], rms
    nearest = distance.amin(0)
    assert (nearest < 0.5 * SPREAD).float().mean() > 0.95  # a fair sample has rms SPREAD
    assert (distance.argmin(0) == 0).any() and (distance.argmin(0) == 1).any()  # each to its own


def test_the_expected_sds_gradient_vanishes_at_a_lone_mode() -> None:
    """At mu the posterior mean of the noise is the noise, on average: E[eps - n] = 0."""
    z = modes()[0].expand(2000, -1, -1, -1).clone()
    got = SDS(SDS.Settings(cfg=constant(1.0), weight="uniform", t_max=constant(0.2))).gradient(scene(z))
    standard_error = got.std(0) / math.sqrt(len(z))
    assert (got.mean(0).abs() < 5 * standard_error).all()


def test_the_inverted_target_repeats_itself_where_the_random_one_does_not() -> None:
    """Liang et al.: the picture that ISM pulls towards is consistent across draws of noise; that of SDS is not."""
    z, t = particles()[:8], 600
    targets: dict[str, list[Tensor]] = {"inverted": [], "random": []}
    for seed in range(0, 40, 2):
        seen = scene(z, seed)
        states = {
            "inverted": invert(seen, t, PathSettings()),
            "random": State(seen.guidance.table.add_noise(z, seen.noise(), at(seen, t)), at(seen, t)),
        }
        for name, state in states.items():
            (eps,) = seen.predict([Branch(state, "text")])
            targets[name].append(seen.guidance.table.x0(state.z_t, eps, state.t_index))
    spread = {name: float(torch.stack(found).std(0).square().mean().sqrt()) for name, found in targets.items()}
    assert spread["inverted"] < 0.5 * spread["random"], spread  # measured: 0.16 against 0.58


def test_cds_is_deterministic_once_its_noise_is_drawn() -> None:
    """Wu et al.: fixed noise makes the trajectory deterministic; only the gap is drawn, here held still."""
    settings = CDS.Settings(perturb=0.0, cfg=constant(1.0), t_near=constant(0.4))
    system, z = CDS(settings), particles()
    first = system.gradient(scene(z, seed=1))
    assert torch.equal(system.gradient(scene(z, seed=50)), first)
    fresh = CDS(settings).gradient(scene(z, seed=50))
    assert not torch.allclose(fresh, first)


@pytest.mark.parametrize("t", [200, 400, 600])
def test_the_prediction_error_falls_with_time(t: int) -> None:
    """Ma et al., the ground of ASD: a model errs less at more noise. Exact here: the posterior variance of n."""
    generator = torch.Generator().manual_seed(0)
    mean = modes()[torch.multinomial(WEIGHTS, 4000, replacement=True, generator=generator), 0]
    z = mean + SPREAD * torch.randn(4000, 3, SIZE, SIZE, generator=generator)  # the data itself
    seen = scene(z)
    noise = torch.randn(z.shape, generator=generator)
    errors = []
    for time in (t, t + 50, t + 100):
        index = torch.full((len(z),), time)
        (eps,) = seen.predict([Branch(State(seen.guidance.table.add_noise(z, noise, index), index), "text")])
        errors.append(float((eps - noise).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_asd_without_shift_and_guidance_is_zero() -> None:
    """rho = 0 and scale 1 subtract a prediction from itself."""
    got = ASD(ASD.Settings(rho=0.0, cfg=constant(1.0))).gradient(scene(particles()))
    assert got.abs().max() < 1e-5
