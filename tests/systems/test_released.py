# SPDX-License-Identifier: Apache-2.0
"""Settings that the authors' released code has: each against its formula, written out in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.prompting import Prompting, perp_neg_weights
from dreamlab.core.schedules import Progress, When, constant, ramp
from systems import SYSTEMS
from systems.asd import ASD
from systems.balanced import Balanced
from systems.bridge import Bridge
from systems.cds import CDS
from systems.csd import CSD
from systems.engine.residual import distil
from systems.ism import ISM
from systems.sds import SDS
from tests.systems.test_residual import Linear, look, per
from tests.systems.test_rules import BAR, REQUIRED, Draws, eps, guided, made, move, noisy

DISTILLING = sorted(name for name, rule in SYSTEMS.items() if hasattr(rule, "gradient"))


def state(low: int = 20, high: int = 980) -> tuple[Tensor, Tensor, Tensor]:
    """(times, noise, noisy latents) as most rules draw them."""
    draws = Draws(4)
    t, n = draws.times(low, high), draws.noise()
    return t, n, noisy(draws.z, n, t)


@pytest.mark.parametrize(("weight", "scale"), [("uniform", 1.0), ("sds", 100.0)])
def test_bridge_weighs_its_first_stage_by_one_minus_alpha_bar(weight: str, scale: float) -> None:
    """The shipped configuration: 1 - alpha_bar, then 1; the class default: (1 - alpha_bar)^2, then 100 (1 - alpha_bar).
    Small times, where the factor matters most: at t = 20 it is 0.02."""
    ends = {"t_min": constant(0.02), "t_max": constant(0.1), "weight": weight, "scale": scale}
    first, _ = made(Bridge, 4, Progress(0, 100), **ends)
    second, _ = made(Bridge, 4, Progress(80, 100), **ends)
    t, n, z = state(20, 100)
    sigma2 = per(1 - BAR[t], z)
    assert sigma2.max() < 0.12
    power, factor = (1, torch.ones_like(sigma2)) if weight == "uniform" else (2, sigma2)
    torch.testing.assert_close(first, sigma2**power * (guided(z, t, 100.0) - n), rtol=1e-6, atol=1e-8)
    bridge = scale * factor * (eps(z, t, "text") - eps(z, t, "negative"))
    torch.testing.assert_close(second, bridge, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_asd_with_a_fixed_shift(seed: int) -> None:
    """t+ = t + int(min(rho (t - t_min), 999 - t)), nothing drawn."""
    got, _ = made(ASD, seed, t_min=constant(0.4), t_max=constant(0.999), rho=0.5, fixed=True)
    draws = Draws(seed)
    t = draws.times(400, 999)
    later = torch.tensor([k + int(min(0.5 * (k - 400), 999 - k)) for k in t.tolist()])
    n = draws.noise()
    expected = guided(noisy(draws.z, n, t), t, 7.5) - eps(noisy(draws.z, n, later), later, "text")
    torch.testing.assert_close(got, per(1 - BAR[t], n) * expected)


def test_csd_with_noise_is_sds() -> None:
    """c = (s, 0, 1 - s, -1): the note of their code."""
    s = 20.0
    got, seen = made(CSD, 4, text=constant(s), null=constant(1 - s), noise=constant(-1.0))
    t, n, z = state()
    torch.testing.assert_close(got, per(1 - BAR[t], z) * (guided(z, t, s) - n), rtol=1e-6, atol=1e-6)
    assert seen.rows == 6
    half, _ = made(CSD, 4, noise=ramp(0.0, 0.5), progress=Progress(5, 10))
    expected = eps(z, t, "text") - eps(z, t, "null") + 0.25 * n
    torch.testing.assert_close(half, per(1 - BAR[t], z) * expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_csd_clips_before_it_normalises_or_after(first: bool) -> None:
    """On the loss, where the engine's own clamp comes last."""
    clip, common = 0.03, {"noise": constant(-1.0), "normalize": True}
    rule = CSD(CSD.Settings(**common, clip=constant(clip), clip_first=first))
    seen = look(seed=4)
    z = seen.z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(distil(rule, seen, z).loss, z)
    t, n, z_t = state()
    g = per(1 - BAR[t], z_t) * (eps(z_t, t, "text") - eps(z_t, t, "null") - n)
    clamped = g.clamp(-clip, clip)
    expected = clamped / clamped.norm() if first else (g / g.norm()).clamp(-clip, clip)
    bites = g.abs() > clip, (g / g.norm()).abs() > clip, (clamped / clamped.norm()).abs() > clip
    assert all(0.1 < some.double().mean() < 1 for some in bites)  # before, after, and it would twice
    torch.testing.assert_close(3 * slope, expected, rtol=1e-6, atol=1e-8)


def test_clipping_first_does_not_hide_a_broken_network() -> None:
    class Broken(Linear):
        def predict(self, *told: Any) -> Tensor:
            found = super().predict(*told)
            found[0, 0, 0, 0] = float("inf")
            return found

    seen = replace(look(seed=4), guidance=Broken())
    rule = CSD(CSD.Settings(normalize=True, clip_first=True, clip=constant(1.0)))
    assert not bool(distil(rule, seen, seen.z.clone().requires_grad_()).finite)


@pytest.mark.parametrize("step", [0, 1000, 1499, 1500, 2999])
def test_cds_with_a_gap_per_view_and_the_mixed_weight(step: int) -> None:
    """Their own variables again, sample by sample; mix is 1 until half of the annealing's end, then 1 - alpha_bar."""
    got, seen = made(CDS, 4, Progress(step, 3000), per_view=True, weight="mix")
    draws = Draws(4)
    n = draws.noise()[:1].expand(3, -1, -1, -1)
    near = max(int((0.7 - 0.6 * math.sqrt(step / 3000)) * 1000), 100)
    gaps = [int(draws.times(0, 199, 1)) for _ in range(3)]
    far = torch.tensor([min(near + 100 + gap, 980) for gap in gaps])
    assert len(set(far.tolist())) > 1
    scale = 101 - 50 * step / 3000
    sigma, sigma_near = per(((1 - BAR[far]) / BAR[far]).sqrt(), n), math.sqrt((1 - BAR[near]) / BAR[near])
    x = draws.z + sigma * n
    e_far = guided(x / (1 + sigma.square()).sqrt(), far, scale)
    stepped = x + (sigma_near - sigma) * e_far
    e_near = guided(stepped / math.sqrt(1 + sigma_near**2), near, scale)
    weight = per(1 - BAR[far] if step >= 1500 else torch.ones(3), n)
    torch.testing.assert_close(got, weight * (e_far - e_near), rtol=1e-5, atol=1e-5)
    assert seen.rows == 12


@pytest.mark.parametrize("against", ["null", "negative"])
def test_balanced_in_its_automatic_mode(against: str) -> None:
    got, seen = made(Balanced, 4, Progress(0, 5000), auto=True, against=against, scale=3.0, weight="ism")
    draws = Draws(4)
    t = int(draws.times(20, 980, 1))
    n = draws.offset_noise()
    z = noisy(draws.z, n, t)
    other = eps(z, t, against)
    g_c, g_d = eps(z, t, "text") - other, 1.25 * (other - n)
    rows = []
    for c, d in zip(g_c, g_d, strict=True):
        a = min(max(float(((d - c) * d).sum() / (d - c).square().sum()), 0.0), 1.0)
        rows.append(a * c + (1 - a) * d)
    norm = (other - n).square().sum().sqrt()  # of the whole batch
    torch.testing.assert_close(got, 0.1 * norm * math.sqrt(1 - BAR[t]) / 50 * torch.stack(rows), rtol=1e-6, atol=1e-7)
    assert (seen.calls, seen.rows) == (1, 6)


@pytest.mark.parametrize("step", [0, 4000])
def test_ism_with_guidance_inside_the_inversion(step: int) -> None:
    """Theirs is reversed, cond + c (uncond - cond) with the negative prompt as uncond and the empty text as cond; it
    leads every step of the path and is the target as well."""
    c = 2.5
    got, seen = made(ISM, 9, Progress(step, 5000), cfg_inversion=c, against="negative")
    warm = 1 - min(step / 1500, 1)
    draws = Draws(9)
    t = int(draws.times(20, 500 + int(480 * warm), 1))
    s = max(t - int(80 + warm * 20), 0)

    def led(z: Tensor, k: int) -> Tensor:
        cond, uncond = eps(z, k, "null"), eps(z, k, "negative")
        return cond + c * (uncond - cond)

    n = draws.offset_noise()
    k, calls = max(s - 1000, 0), 0
    z = noisy(draws.z, n, k)
    while k < s:
        after = min(k + 200, s)
        z, k, calls = move(z, led(z, k), k, after), after, calls + 1
    target = led(z, s)
    z_t = move(z, target, s, t)
    weight = 0.1 * math.sqrt((1 - BAR[t]) / BAR[t])
    torch.testing.assert_close(got, weight * (guided(z_t, t, 7.5, "negative") - target), rtol=1e-6, atol=1e-6)
    assert seen.rows == 6 * (calls + 2)
    needs = [ISM.card(ISM.Settings(cfg_inversion=scale)).conditions for scale in (c, 1.0)]
    assert needs == [{"text", "null", "negative"}, {"text", "null"}]


@pytest.mark.parametrize("azimuth", [0.0, 10.0, -17.0, 30.0, -75.0, 88.0, 95.0, -110.0, 150.0, 179.0])
def test_lucid_dreamers_weights_of_perp_neg(azimuth: float) -> None:
    """negative_w -2, front_decay 2, side_decay 10, as their notes have it (losses.md 3.4), by plain arithmetic."""
    away, weights = perp_neg_weights(orbit([azimuth], 0.0), Prompting(perp_neg=1.0, perp_neg_curves="lucid"))
    turn = abs(azimuth)
    if turn < 90:
        r = 1 - turn / 90
        names = [0, 1]  # front, side
        expected = [0.0 if r > 0.8 else -2 * math.exp(-2 * r), 0.0 if r < 0.2 else -2 * math.exp(-10 * (1 - r))]
    else:
        r = 2 - turn / 90
        names = [1, 0]
        expected = [0.0 if r > 0.8 else -2 * math.exp(-10 * r) / 2, -2.0]
    assert away[0].tolist() == names
    assert weights[0].tolist() == pytest.approx(expected, abs=1e-5)
    overhead = perp_neg_weights(orbit([azimuth], 75.0), Prompting(perp_neg=1.0, perp_neg_curves="lucid"))[1]
    assert overhead.abs().max() == 0


def test_the_curves_of_perp_neg_differ() -> None:
    cameras: Cameras = orbit([40.0, 130.0], 0.0)
    theirs, ours = (
        perp_neg_weights(cameras, Prompting(perp_neg=1.0, perp_neg_curves=name))[1] for name in ("lucid", "threestudio")
    )
    assert (theirs - ours).abs().max() > 0.1


@pytest.mark.parametrize("name", DISTILLING)
def test_every_rule_is_clipped_as_its_schedule_says(name: str) -> None:
    """Both ends and the middle of [0, 2, 8, 1000], in thousandths: no rule's clip is lost on the way to its loss."""
    rule = SYSTEMS[name]
    required = {**REQUIRED, "video": {"frames": 4}, "bootstrapped": {"dream": 0.0, "width": 8}}.get(name, {})
    schedule = ramp(2e-3, 8e-3, end=When(1000, "steps"))
    for step, most in ((0, 2e-3), (500, 5e-3), (1000, 8e-3), (1500, 8e-3)):
        seen = look(batch=4, seed=4)
        assert seen.frames is not None
        seen.progress, seen.frames = Progress(step, 2000), replace(seen.frames, alpha=2 * seen.frames.alpha)  # solid
        z = seen.z.clone().requires_grad_()
        system = rule(rule.Settings(**required, clip=schedule))
        (slope,) = torch.autograd.grad(distil(system, seen, z).loss, z)
        assert 4 * slope.abs().max() == pytest.approx(most, rel=1e-9), (step, name)


def test_a_rule_without_a_clip_has_none() -> None:
    seen = look(seed=4)
    z = seen.z.clone().requires_grad_()
    rule = SDS(SDS.Settings())
    (slope,) = torch.autograd.grad(distil(rule, seen, z).loss, z)
    torch.testing.assert_close(3 * slope, rule.gradient(replace(look(seed=4), progress=seen.progress)))
    assert slope.abs().max() > 10
