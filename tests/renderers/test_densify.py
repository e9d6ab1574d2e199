# SPDX-License-Identifier: Apache-2.0
"""Growing and pruning against what the papers say must hold; states that change size resume to the same bytes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cuda_ext.splat import SplatStats
from dreamlab import recipe
from dreamlab.core.cameras import turntable
from dreamlab.core.rotation import matrix
from dreamlab.core.schedules import Progress
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from renderers.gaussian.densify import DensifySettings, grow_and_prune, relocate_and_add, reset_opacity, shared, walk
from renderers.gaussians import Gaussians, GaussianSettings


def cloud(count: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "means": torch.randn(count, 3, generator=g),
        "log_scales": -3 + 0.5 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "logit_opacity": torch.randn(count, generator=g),
        "logit_color": torch.randn(count, 3, generator=g),
    }


def stats(mean: Tensor, views: float = 8.0) -> SplatStats:
    return SplatStats(mean * views, torch.full_like(mean, views), torch.zeros_like(mean))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_small_ones_are_copied_large_ones_split_faint_ones_dropped() -> None:
    params = cloud(5)
    params["log_scales"] = torch.tensor([0.01, 0.2, 0.01, 0.2, 0.9]).log()[:, None].repeat(1, 3)
    params["logit_opacity"] = torch.tensor([0.5, 0.5, 0.001, 0.5, 0.5]).logit()
    before = {name: value.clone() for name, value in params.items()}
    s = DensifySettings(kind="adaptive", gradient=1.0)
    mean = torch.tensor([2.0, 2.0, 2.0, 0.5, 2.0])  # 0 copied, 1 split, 2 faint, 3 content, 4 too large
    grown, rows = grow_and_prune(params, stats(mean / 3), 3, s, stream())
    assert rows.source.tolist() == [0, 3, -1, -1, -1] and not rows.fresh
    assert torch.equal(grown["means"][2], params["means"][0])
    torch.testing.assert_close(grown["log_scales"][3:], params["log_scales"][[1, 1]] - math.log(1.6))
    assert (grown["means"][3] != grown["means"][4]).all()
    assert torch.equal(grown["logit_color"][3:], params["logit_color"][[1, 1]])
    assert all(torch.equal(params[name], before[name]) for name in params)  # pure


def test_children_are_drawn_from_their_parent() -> None:
    """The sample covariance of many children is the parent's; 20000 draws, five standard errors."""
    n = 10_000
    params = {name: value.expand(n, *value.shape[1:]).clone() for name, value in cloud(1, seed=3).items()}
    params["log_scales"] = torch.tensor([0.4, 0.1, 0.2]).log().expand(n, 3).clone()
    s = DensifySettings(kind="adaptive", gradient=1.0, cap=10 * n)
    params["logit_opacity"] = torch.ones(n)
    grown, _ = grow_and_prune(params, stats(torch.full((n,), 2.0)), 1, s, stream(1))
    offset = (grown["means"] - params["means"][0]).double()
    turn = matrix(params["quats"][:1].double())[0]
    expected = turn @ torch.diag(torch.tensor([0.4, 0.1, 0.2]).double() ** 2) @ turn.T
    found = offset.T @ offset / len(offset)
    bound = 5 * ((expected**2 + expected.diagonal()[:, None] * expected.diagonal()) / len(offset)).sqrt()
    assert len(offset) == 2 * n and ((found - expected).abs() < bound).all()


def test_the_cap_takes_the_neediest() -> None:
    params = cloud(10)
    params["log_scales"] -= 2
    params["logit_opacity"] = torch.ones(10)
    grown, rows = grow_and_prune(
        params, stats(torch.arange(10.0)), 1, DensifySettings(kind="adaptive", gradient=0.5, cap=13), stream()
    )
    assert len(rows.source) == 13
    assert torch.equal(grown["means"][10:], params["means"][7:])  # in their old order


def test_a_nan_statistic_asks_for_nothing() -> None:
    mean = torch.tensor([math.nan, 0.1, 0.1, 0.1])
    _, rows = grow_and_prune(cloud(4), stats(mean), 1, DensifySettings(kind="adaptive", gradient=1.0), stream())
    assert rows.source.tolist() == [0, 1, 2, 3]


def test_reset_only_lowers() -> None:
    params = cloud(50)
    lowered, rows = reset_opacity(params, DensifySettings(kind="adaptive", reset_opacity=0.3))
    expected = params["logit_opacity"].sigmoid().clamp(max=0.3)
    torch.testing.assert_close(lowered["logit_opacity"].sigmoid(), expected)
    assert rows.fresh == ("logit_opacity",) and lowered["means"] is params["means"]


@pytest.mark.parametrize(("opacity", "copies"), [(0.3, 2), (0.8, 3), (0.95, 7), (0.6, 1)])
def test_copies_together_absorb_what_the_one_did(opacity: float, copies: int) -> None:
    """MCMC eq. 9 from its purpose: the opacity at the centre is the same, and so is its integral along a line."""
    o, factor = shared(torch.tensor([opacity], dtype=torch.float64), torch.tensor([copies]))
    x = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    one = opacity * torch.exp(-0.5 * x**2)
    many = 1 - (1 - o * torch.exp(-0.5 * (x / factor) ** 2)) ** copies
    torch.testing.assert_close(many.amax(), one.amax(), rtol=1e-9, atol=0)
    torch.testing.assert_close(many.sum(), one.sum(), rtol=1e-6, atol=0)


def test_relocation_leaves_the_picture_nearly_as_it_was() -> None:
    made = Gaussians(GaussianSettings(count=200, opacity=0.5), stream(2))
    with torch.no_grad():
        made.params["logit_opacity"][:40] = -9.0
        before = made.render(turntable(2), 32, torch.ones(2, 3)).rgb
        params = {name: value.detach() for name, value in made.params.items()}
        s = DensifySettings(kind="mcmc", growth=1.2, cap=220)
        grown, rows = relocate_and_add(params, s, stream(5))
        made._own(grown)
        after = made.render(turntable(2), 32, torch.ones(2, 3)).rgb
    assert len(rows.source) == 220 and (grown["logit_opacity"].sigmoid() > 0.005).all()
    assert ((rows.source == -1) | (rows.source == torch.arange(220))).all()
    moved = (grown["means"][:40] - params["means"][:40]).norm(dim=-1)
    assert (moved > 0).all() and (rows.source[:40] == -1).all()
    assert (after - before).abs().mean() < 0.01 and (after - before).abs().max() < 0.25


def test_a_host_shares_with_its_guests() -> None:
    """Of one that is alive and two that are not, three together stop what the one did: (1 - o)^3 = 1 - 0.6."""
    params = cloud(3) | {"logit_opacity": torch.tensor([0.6, 1e-4, 1e-4]).logit()}
    grown, _ = relocate_and_add(params, DensifySettings(kind="mcmc", growth=1.0), stream())
    torch.testing.assert_close(grown["logit_opacity"].sigmoid(), torch.full((3,), 1 - 0.4 ** (1 / 3)))
    assert torch.equal(grown["log_scales"], grown["log_scales"][:1].expand(3, 3))


def test_only_the_transparent_walk_and_along_their_own_axes() -> None:
    params = {name: value.expand(4000, *value.shape[1:]).clone() for name, value in cloud(1, seed=1).items()}
    params["log_scales"] = torch.tensor([0.3, 0.1, 0.2]).log().expand(4000, 3).clone()
    params["logit_opacity"] = torch.where(torch.arange(4000) < 3000, -12.0, 3.0)
    step_taken = walk(params, 2.0, stream(3)) - params["means"]
    assert step_taken[3000:].abs().max() < 1e-6
    turn = matrix(params["quats"][:1])[0]
    deviation = (step_taken[:3000] @ turn).std(0)
    free = float(torch.sigmoid(torch.tensor(0.5)))  # opacity 0 stands 0.005 below the middle of the gate
    torch.testing.assert_close(deviation, 2 * free * torch.tensor([0.09, 0.01, 0.04]), rtol=0.06, atol=0)


RECIPE = """
prompt: a red mushroom with a white stem
stages:
  - name: fit
    scene: {{kind: gaussians, count: 60, sh_degree: 1, densify: {{{densify}}}}}
    terms: [{{guidance: truth, system: photometric}}]
    steps: 24
    views: 2
    size: 16
    cameras: {{fixed: 6}}
"""
ADAPTIVE = "kind: adaptive, begin: 0, end: 1, every: 4, gradient: 0.0005, cap: 150, reset_every: 9"
MCMC = "kind: mcmc, begin: 0, end: 1, every: 4, growth: 1.2, cap: 100, min_opacity: 0.03"


def built(densify: str) -> BuiltStage:
    return Assembler(recipe.load(RECIPE.format(densify=densify), TABLES), "cpu").stage(0)


@pytest.mark.parametrize("densify", [ADAPTIVE, MCMC])
def test_a_resumed_run_ends_with_the_same_bytes_though_the_count_changed(densify: str) -> None:
    ring = Ring(METRICS, 100, "cpu")
    whole = built(densify)
    state = None
    for i in range(24):
        if i == 13:
            parts = (whole.scene.state_dict(), whole.optimiser.state_dict(), whole.streams.state_dict())
            state = [{name: value.clone() for name, value in part.items()} for part in parts]
        step(whole, i, ring)
    assert state is not None and len(state[0]["means"]) != 60
    again = built(densify)
    again.scene.load_state_dict(state[0])
    again.optimiser.load_state_dict(state[1])
    again.streams.load_state_dict(state[2])
    for i in range(13, 24):
        step(again, i, ring)
    for first, second in ((whole.scene, again.scene), (whole.optimiser, again.optimiser)):
        ours, theirs = first.state_dict(), second.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_due_in_its_window_only() -> None:
    s = DensifySettings(kind="adaptive", begin=0.25, end=0.5, every=10)
    assert [i for i in range(100) if s.due(Progress(i, 100))] == [29, 39, 49]
    assert not any(DensifySettings().due(Progress(i, 100)) for i in range(100))
