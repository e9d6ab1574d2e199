# SPDX-License-Identifier: Apache-2.0
"""CFG rescale as a way of asking, for every rule that guides; HiFA's second loss: against float64 written out here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.noise import rescaled
from dreamlab.core.prompting import Asking, Prompting
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Condition
from systems import SYSTEMS
from systems.engine.residual import Look, State, distil
from systems.hifa import HiFA
from systems.rfds import RFDS
from systems.sds import SDS
from systems.semantic import Region
from tests.systems.test_residual import BIASES, Linear, look, per
from tests.systems.test_rules import BAR, Draws, guided, noisy

RESCALING = sorted(name for name, rule in SYSTEMS.items() if getattr(rule, "rescales", False))
REQUIRED: dict[str, dict[str, Any]] = {
    "video": {"frames": 4},
    "semantic": {"regions": (Region("a red ball", x=(-5.0, 0.0)), Region("a blue cube", x=(0.0, 5.0)))},
    "bootstrapped": {"dream": 0.0, "width": 8},
}


class Louder(Linear):
    """eps = (0.3 + 0.1 bias) z_t + t + bias: a condition changes the clean picture's deviation, not its mean alone."""

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        self.sizes.append(len(z_t))
        bias = per(condition.rows["bias"], z_t)
        return (0.3 + 0.1 * bias) * z_t + per(t_index / 1000, z_t) + bias


def louder(z: Tensor, t: Tensor, told: str) -> Tensor:
    bias = per(BIASES[told](torch.arange(3).double()), z)
    return (0.3 + 0.1 * bias) * z + per(t / 1000, z) + bias


def asked(share: float, batch: int = 3) -> Look:
    seen = look(batch=batch, seed=4)
    assert seen.frames is not None
    solid = replace(seen.frames, alpha=torch.ones_like(seen.frames.alpha))
    return replace(seen, guidance=Louder(), frames=solid, asking=Asking(Prompting(rescale=share)))


def pulled_back(z: Tensor, t: Tensor, plain: Tensor, told: Tensor, share: float) -> Tensor:
    """eps whose x0 goes, sample by sample, `share` of the way to the told x0's deviation (Lin et al., eq. 15-16)."""
    rows = []
    for b in range(len(z)):
        a, s = math.sqrt(BAR[t[b]]), math.sqrt(1 - BAR[t[b]])
        x0, like = (z[b] - s * plain[b]) / a, (z[b] - s * told[b]) / a
        new = share * x0 * (like.std() / x0.std()) + (1 - share) * x0
        rows.append((z[b] - a * new) / s)
    return torch.stack(rows)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_sds_with_rescale_is_the_formula(share: float) -> None:
    seen = asked(share)
    got = SDS(SDS.Settings(cfg=constant(20.0))).gradient(seen)
    draws = Draws(4)
    t, n = draws.times(20, 980), draws.noise()
    z = noisy(draws.z, n, t)
    text, null = louder(z, t, "text"), louder(z, t, "null")
    expected = pulled_back(z, t, null + 20 * (text - null), text, share)
    torch.testing.assert_close(got, per(1 - BAR[t], z) * (expected - n), rtol=1e-6, atol=1e-7)
    assert (seen.calls, seen.rows) == (1, 6)  # no evaluation more


def test_at_one_the_clean_picture_has_the_deviation_of_the_told_one() -> None:
    seen, t = asked(1.0), torch.tensor([100, 500, 900])
    state = State(seen.z, t)
    plain, told = 5 * torch.randn_like(seen.z), torch.randn_like(seen.z)
    table = seen.guidance.table
    found, like = (table.x0(seen.z, e, t) for e in (seen.settled(state, plain, told), told))
    torch.testing.assert_close(found.flatten(1).std(1), like.flatten(1).std(1))
    assert asked(0.0).settled(state, plain, told) is plain


@pytest.mark.parametrize("name", RESCALING)
def test_every_rule_that_guides_is_reached(name: str) -> None:
    """A share of nearly nothing changes nearly nothing, half changes something; no rule asks the network for more."""
    found = []
    for share in (0.0, 1e-7, 0.5):
        rule = SYSTEMS[name]
        seen = asked(share, batch=4)
        found.append((rule(rule.Settings(**REQUIRED.get(name, {}))).gradient(seen), seen.rows))
    (plain, rows), (nearly, _), (half, rows_half) = found
    torch.testing.assert_close(nearly, plain, rtol=1e-3, atol=1e-3)
    assert (half - plain).abs().max() > 1e-3 * plain.abs().max() and rows == rows_half


@pytest.mark.parametrize("rev", [False, True])
def test_rectified_flow_is_settled_in_its_own_words(rev: bool) -> None:
    """x0 = z_s - s v goes 0.6 of the way to the told one's deviation; v of the model by hand, (eps - z_s) / (1 - s)."""
    got = RFDS(RFDS.Settings(cfg=constant(20.0), rev=rev)).gradient(asked(0.6))
    draws = Draws(4)
    flow = (1 - BAR).sqrt() / (BAR.sqrt() + (1 - BAR).sqrt())
    t = (flow[:, None] - (0.3 + 0.68 * torch.rand(3, generator=draws.time_stream).double())).abs().argmin(0)
    s, n = per(flow[t], draws.z), draws.noise()
    grow = per(BAR[t].sqrt() + (1 - BAR[t]).sqrt(), n)  # of z_s to the state the model knows

    def v(z_s: Tensor, told: str) -> Tensor:
        return (louder(z_s * grow, t, told) - z_s) / (1 - s)

    if rev:
        n = n + (1 - s) * (v((1 - s) * draws.z + s * n, "text") + draws.z - n)
    z_s = (1 - s) * draws.z + s * n
    text, null = v(z_s, "text"), v(z_s, "null")
    told, mine = z_s - s * text, z_s - s * (null + 20 * (text - null))
    ratio = told.flatten(1).std(1) / mine.flatten(1).std(1)
    settled = (z_s - per(0.6 * ratio + 0.4, mine) * mine) / s
    u = torch.ones(3) if rev else torch.randn(3, generator=draws.time_stream).sigmoid()
    torch.testing.assert_close(got, per(u, n) * (settled - (n - draws.z)), rtol=1e-5, atol=1e-5)


def test_groups_share_a_deviation() -> None:
    x, like = 5 * torch.randn(6, 3, 4, 4, dtype=torch.float64), torch.randn(6, 3, 4, 4, dtype=torch.float64)
    for group in (1, 4):
        full = rescaled(x, like, 1.0, group)
        for part in range(0, 6, group):
            rows = slice(part, part + group)
            assert full[rows].std().item() == pytest.approx(like[rows].std().item())


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_hifa_pulls_latents_and_picture_towards_one_clean_picture(weight: float) -> None:
    """The picture is three channels of the latents here, so both gradients are seen at once."""
    seen = look(seed=4)
    seen.progress = Progress(25, 100)
    rule = HiFA(HiFA.Settings(cfg=constant(7.0), image=constant(weight)))
    rgb = torch.rand(3, 6, 6, 3, dtype=torch.float64, requires_grad=True)
    assert seen.frames is not None
    seen.frames = replace(seen.frames, rgb=rgb)
    z = seen.z.clone().requires_grad_()
    distilled = distil(rule, seen, z)
    on_z, on_picture = torch.autograd.grad(distilled.loss, (z, rgb), allow_unused=True)
    t = torch.full((3,), 640)  # 0.98 + (0.3 - 0.98) sqrt(1/4)
    n = torch.randn(z.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z_t = noisy(seen.z, n, t)
    e, w = guided(z_t, t, 7.0), float(1 - BAR[640])
    a, s = math.sqrt(BAR[640]), math.sqrt(1 - BAR[640])
    torch.testing.assert_close(on_z, w * (e - n) / 3)
    torch.testing.assert_close(on_z, w * (a / s) * (seen.z - (z_t - s * e) / a) / 3)  # the same as reconstruction
    if weight == 0:
        assert on_picture is None
    else:
        clean = ((z_t - s * e) / a)[:, :3].permute(0, 2, 3, 1)
        torch.testing.assert_close(on_picture, weight * w * (a / s) * (rgb.detach() - clean) / 3)
    assert (seen.calls, seen.rows) == (1, 6) and bool(distilled.finite)


def test_hifa_meets_the_decoded_size_and_clips() -> None:
    seen = look(seed=4)
    assert seen.frames is not None
    rgb = torch.rand(3, 12, 12, 3, dtype=torch.float64, requires_grad=True)
    seen.frames = replace(seen.frames, rgb=rgb)
    rule = HiFA(replace(HiFA.Settings(image=constant(1.0)), clip=constant(1e-3)))
    loss = distil(rule, seen, seen.z.clone().requires_grad_()).loss
    (slope,) = torch.autograd.grad(loss, rgb)
    assert slope.shape == rgb.shape and 0 < slope.abs().sum(-1).max() < 1
    assert slope.abs().sum() <= 1e-3 * 3 * 6 * 6 * 3 / 3 + 1e-9  # every pixel of 6 x 6 gives its clamp away once
