# SPDX-License-Identifier: Apache-2.0
"""VSD: its formula, its own network's training, its checkpoint, and what it does that SDS does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.mixture import TIMES, exact, measured, start
from dreamlab import recipe
from dreamlab.core.cameras import turntable
from dreamlab.core.prompting import Asking, Prompting
from dreamlab.core.schedules import constant
from dreamlab.core.types import Condition
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.preview import orbit_views
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.run.worlds import true_pictures
from systems.asd import ASD
from systems.engine.residual import Look
from systems.sds import SDS
from systems.vsd import VSD
from tests.systems.test_behaviour import SPREAD, descend, modes
from tests.systems.test_residual import Linear, look, per
from tests.systems.test_rules import BAR, Draws, eps, guided, noisy


def gradient(seed: int = 4, seen: Look | None = None, **settings: Any) -> tuple[Tensor, Look]:
    seen = seen or look(seed=seed)
    return VSD(VSD.Settings(**settings)).gradient(seen), seen


@pytest.mark.parametrize(("base", "predicts"), [("none", "v"), ("none", "eps"), ("prior", "v"), ("prior", "eps")])
def test_vsd_at_its_start(base: str, predicts: str) -> None:
    """The network starts at zero: eps_phi is then s z_t in v, 0 in eps, the text's prediction upon the prior."""
    got, _ = gradient(base=base, predicts=predicts)
    draws = Draws(4)
    t = draws.times(20, 980)
    z = noisy(draws.z, draws.noise(), t)
    mine = {"none": {"v": per((1 - BAR[t]).sqrt(), z) * z, "eps": torch.zeros_like(z)}}
    mine["prior"] = dict.fromkeys(("v", "eps"), eps(z, t, "text"))
    torch.testing.assert_close(got, per(1 - BAR[t], z) * (guided(z, t, 7.5) - mine[base][predicts]))


def test_vsd_asks_three_and_trains_on_one() -> None:
    """Per view: text, null, its own; and one more of its own to train on. Nothing is evaluated for a scale of 1."""
    _, seen = gradient(base="none")
    assert (seen.guidance.sizes, seen.rows, seen.trained) == ([6], 3 * (3 + 1), 3)  # type: ignore[attr-defined]
    _, seen = gradient(base="none", cfg=constant(1.0))
    assert (seen.guidance.sizes, seen.rows) == ([3], 3 * (2 + 1))  # type: ignore[attr-defined]
    _, seen = gradient(base="none", cfg_own=2.0)
    assert seen.rows == 3 * (4 + 1)
    _, seen = gradient(base="prior")  # what it adds to is asked once more, where it is trained
    assert (seen.guidance.sizes, seen.rows) == ([6, 3], 3 * (3 + 2))  # type: ignore[attr-defined]


class Adapted(Linear):
    """A guidance whose adapter has two numbers: eps = frozen + p z_t + q (first entry of the camera)."""

    def __init__(self) -> None:
        super().__init__()
        self.cameras: list[Tensor] = []

    def adapter(self, rank: int) -> Adapted:
        self.rank = rank
        return self

    def start(self) -> dict[str, Tensor]:
        return {"p": torch.zeros(1, dtype=torch.float64), "q": torch.full((1,), 0.1, dtype=torch.float64)}

    def apply(
        self, params: Mapping[str, Tensor], z_t: Tensor, t_index: Tensor, condition: Condition, camera: Tensor
    ) -> Tensor:
        self.cameras.append(camera)
        return self.predict(z_t, t_index, condition) + params["p"] * z_t + params["q"] * per(camera[:, 0], z_t)


def adapted(batch: int = 3) -> Look:
    seen = look(batch, seed=4)
    seen.guidance, seen.cameras = Adapted(), turntable(batch)
    return seen


def test_vsd_through_an_adapter_follows_its_loss_downhill() -> None:
    """The first step of Adam is lr against the sign of the gradient, here known by hand from the denoising loss."""
    seen = adapted()
    system = VSD(VSD.Settings(net="adapter", lr=0.01, camera_drop=0.0, cfg=constant(1.0)))
    system.gradient(seen)
    assert system.trained is not None and seen.guidance.rank == 4  # type: ignore[attr-defined]
    draws = Draws(4)
    draws.times(20, 980)  # the rule's own draws come first
    draws.noise()
    t, n = draws.times(0, 999), draws.noise()
    z = noisy(draws.z, n, t)
    x = per(turntable(3).camera_to_world[:, 0, 0].double(), z)
    weight = per(1 / BAR[t].sqrt().clamp(min=0.05), z).square()
    error = weight * (eps(z, t, "text") + 0.1 * x - n)
    slopes = torch.stack([(error * z).sum(), (error * x).sum()])
    torch.testing.assert_close(
        system.trained.flat, torch.tensor([0.0, 0.1]).double() - 0.01 * slopes.sign(), atol=1e-6, rtol=0
    )


def test_vsd_may_learn_at_several_times_per_view() -> None:
    """One step of Adam on the mean over all lessons, each with its own times and noise; 2 x 3 pictures."""
    seen = adapted()
    system = VSD(VSD.Settings(net="adapter", lr=0.01, camera_drop=0.0, cfg=constant(1.0), lessons=2, predicts="eps"))
    system.gradient(seen)
    assert system.trained is not None and (seen.trained, seen.rows) == (6, 3 * (1 + 1 + 2))
    draws = Draws(4)
    draws.times(20, 980)
    draws.noise()
    slopes = torch.zeros(2, dtype=torch.float64)
    for _ in range(2):
        t, kept, n = draws.times(0, 999), torch.rand(3, generator=draws.time_stream), draws.noise()
        assert kept.shape == (3,)
        z = noisy(draws.z, n, t)
        x = per(turntable(3).camera_to_world[:, 0, 0].double(), z)
        error = eps(z, t, "text") + 0.1 * x - n
        slopes += torch.stack([(error * z).mean(), (error * x).mean()])
    assert int(system.trained.count) == 1
    # The first moment of Adam is a tenth of the gradient of mean((error)^2), which is twice the mean over both lessons.
    torch.testing.assert_close(system.trained.first, 0.1 * slopes, rtol=1e-5, atol=1e-7)


def test_vsd_with_one_time_for_all_views() -> None:
    got, _ = gradient(shared_t=True)
    draws = Draws(4)
    t = draws.times(20, 980, 1).expand(3)
    z = noisy(draws.z, draws.noise(), t)
    mine = per((1 - BAR[t]).sqrt(), z) * z
    torch.testing.assert_close(got, per(1 - BAR[t], z) * (guided(z, t, 7.5) - mine))


@pytest.mark.parametrize("rule", [SDS(SDS.Settings()), VSD(VSD.Settings(net="adapter")), ASD(ASD.Settings())])
def test_every_time_is_one_for_rows_that_a_model_sees_as_one(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule's own, the shifted, and those that its network is trained at; two groups have two."""
    seen, times, plain = replace(adapted(batch=8), at_once=4), [], Look.noised
    monkeypatch.setattr(Look, "noised", lambda self, noise, t: times.append(t) or plain(self, noise, t))
    rule.gradient(seen)
    assert len(times) == (1 if isinstance(rule, SDS) else 2)
    for t in times:
        groups = t.reshape(2, 4)
        assert (groups == groups[:, :1]).all() and groups[0, 0] != groups[1, 0]


def test_the_camera_is_dropped_one_time_in_ten() -> None:
    seen = adapted(batch=500)
    VSD(VSD.Settings(net="adapter")).gradient(seen)
    used, trained = seen.guidance.cameras  # type: ignore[attr-defined]
    assert (used.abs().sum(1) > 0).all()
    assert 25 <= int((trained.abs().sum(1) == 0).sum()) <= 80  # 50 expected, deviation 6.7


def test_words_of_direction_do_not_reach_the_own_network() -> None:
    seen = adapted()
    worded = {**seen.guidance.condition(None, turntable(3), None)}  # type: ignore[arg-type]
    for i, name in enumerate(("front", "side", "back", "overhead")):
        worded[name] = Condition({"bias": torch.full((3,), 10.0 + i).double()})
    streams = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
    steered = Look(
        Adapted(), seen.z, worded, seen.progress, *streams, None, turntable(3), Asking(Prompting(views="hard"))
    )
    got, _ = gradient(seen=steered, base="prior")
    draws = Draws(4)
    t = draws.times(20, 980)
    z = noisy(draws.z, draws.noise(), t)
    azimuths = per(torch.tensor([10.0, 11.0, 11.0]).double(), z)  # 0, 120, -120 degrees: front, side, side
    told = eps(z, t, "null") + azimuths - per(-torch.arange(3).double(), z)
    full = eps(z, t, "null") + 7.5 * (told - eps(z, t, "null"))
    torch.testing.assert_close(got, per(1 - BAR[t], z) * (full - eps(z, t, "text")))


def test_a_resumed_vsd_goes_on_as_if_nothing_had_happened() -> None:
    first = VSD(VSD.Settings(width=8))
    for seed in range(3):
        first.gradient(look(seed=seed))
    again = VSD(VSD.Settings(width=8))
    again.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    torch.testing.assert_close(again.gradient(look(seed=9)), first.gradient(look(seed=9)), rtol=0, atol=0)
    torch.testing.assert_close(again.state_dict(), first.state_dict(), rtol=0, atol=0)
    assert int(first.state_dict()["count"]) == 4


def test_a_network_that_adds_to_the_prior_begins_as_csd_and_a_short_run_goes_astray() -> None:
    """One scene from a bare start, 60 steps: alone the network lets the text's object appear, upon the prior not."""

    def silhouettes(base: str) -> float:
        small = ["stages.0.scene={kind: gaussians, count: 400}", "stages.0.size=20", "stages.0.steps=60"]
        settings = [f"stages.0.terms.0.system.{name}" for name in (f"base={base}", "width=8")]
        wanted = recipe.load(recipe.find("vsd"), TABLES, overrides=[*small, *settings, "stages.0.particles=1"])
        assembler = Assembler(wanted, "cpu")
        stage, cameras = assembler.stage(0), orbit_views(4)
        for i in range(60):
            step(stage, i, Ring(METRICS, 1, "cpu"))
        with torch.no_grad():
            mine = stage.scene.render(cameras, 32, torch.ones(4, 3)).alpha > 0.5
        true = true_pictures(assembler.prompts[0], wanted.seed)(cameras, 32).alpha[0] > 0.5
        return float((mine & true).sum() / (mine | true).sum())

    alone, upon = silhouettes("none"), silhouettes("prior")
    assert alone > 0.85 and alone > upon + 0.1, (alone, upon)  # measured: 0.93 and 0.66


def test_vsd_matches_the_distribution_where_sds_seeks_modes() -> None:
    """Wang et al.: at the optimum the particles are samples. Their spread about each mode must be the model's own,
    0.3, within 10 %; SDS under the same conditions shrinks them to a tenth of it."""
    common = {"cfg": constant(1.0), "weight": "uniform"}
    vsd = descend(VSD(VSD.Settings(**common, t_max=constant(0.98), lr=1e-2, width=8)), 200, 0.1)
    sds = descend(SDS(SDS.Settings(**common, t_max=constant(0.5))), 250, 0.1)
    assert all(0.9 * SPREAD < width < 1.1 * SPREAD for width in spreads(vsd)), spreads(vsd)
    assert all(width < 0.5 * SPREAD for width in spreads(sds)), spreads(sds)


def test_shares_are_settled_at_high_noise_and_by_no_number_of_particles() -> None:
    """With the exact score of the particles themselves: where times are drawn from the whole table, far modes keep the
    particles that were nearest at the start (shares of 0.70 and 0.30 are never reached); where high noise comes first,
    they divide as they should. 32 particles or 128."""
    for count in (32, 128):
        stays, divides = [], []
        for seed in range(3):
            began, _ = measured(start(count, seed))
            stays.append(abs(measured(exact(count, TIMES["all"], steps=200, seed=seed))[0] - began))
            divides.append(measured(exact(count, TIMES["high first"], steps=400, seed=seed))[0])
        assert sum(stays) / 3 < 0.08, stays
        assert abs(sum(divides) / 3 - 0.7) < 0.08, divides


def test_the_spread_of_few_particles_is_what_a_small_network_makes_of_it() -> None:
    """The exact score of N points pins each to itself at low noise, where VSD is SDS: the spread is half the model's
    and grows slowly with N. The network cannot tell particles apart that finely, and so has the spread right."""
    widths = [measured(exact(count, TIMES["all"], steps=200))[1] for count in (8, 32, 128)]
    assert widths[0] < widths[1] < widths[2] < 0.6 * SPREAD, widths


def spreads(particles: Tensor) -> list[float]:
    """The rms distance of particles to their nearest mode, for each mode; both must have some."""
    distance = (particles[None] - modes()).square().mean((2, 3, 4))  # [mode, particle]
    nearest = distance.argmin(0)
    assert {0, 1} == set(nearest.tolist())
    return [float(distance[k, nearest == k].mean().sqrt()) for k in range(2)]
