# SPDX-License-Identifier: Apache-2.0
"""The engine: branches in one call, the residual and the loss, against float64 written out in the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.noise import NoiseTable, make_table
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Condition, Frames, Prompt
from systems.engine.residual import Branch, Look, State, combine, distil, loss_from_gradient
from systems.sds import SDS

BIASES: dict[str, Callable[[Tensor], Tensor]] = {
    "text": lambda b: b + 0.5,
    "null": lambda b: -b,
    "negative": lambda b: 0.25 * b - 1,
    "blind": lambda b: 2 * b - 0.3,
    "blind_null": lambda b: 0.1 * b + 0.2,
    "content": lambda b: 0.4 - b,
    "style": lambda b: 1.3 * b,
    "control": lambda b: 0.7 * b + 0.1,
    "control_null": lambda b: 0.2 * b - 0.6,
    "category": lambda b: 0.9 - 0.4 * b,
    "visual": lambda b: 0.8 * b + 0.7,
    "grid": lambda b: 0.6 * b + 0.25,
    "grid_null": lambda b: 0.1 - 0.3 * b,
}


class Linear:
    """A guidance whose eps is an affine function of state, time and condition; it counts how it is called."""

    variants = frozenset(BIASES)

    def __init__(self) -> None:
        self.table: NoiseTable = make_table("scaled_linear")
        self.table = NoiseTable(self.table.alpha_bar.double())
        self.sizes: list[int] = []

    def encode(self, rgb: Tensor) -> Tensor:
        return rgb.permute(0, 3, 1, 2)

    def decode(self, z: Tensor) -> Tensor:
        return z[:, :3].permute(0, 2, 3, 1)  # a picture has three channels

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        rows = torch.arange(len(cameras), dtype=torch.float64)
        return {name: Condition({"bias": bias(rows)}) for name, bias in BIASES.items()}

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        self.sizes.append(len(z_t))
        return 0.3 * z_t + per(t_index / 1000, z_t) + per(condition.rows["bias"], z_t)


def per(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, None, None, None]


def look(batch: int = 3, seed: int = 0) -> Look:
    guidance = Linear()
    z = torch.randn(batch, 4, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    conditions = guidance.condition(Prompt("x"), turntable(batch), None)  # type: ignore[arg-type]
    streams = torch.Generator().manual_seed(seed + 1), torch.Generator().manual_seed(seed + 2)
    there = torch.ones(batch, 6, 6, 1, dtype=torch.float64)
    frames = Frames(there.expand(-1, -1, -1, 3), 0.5 * there, 2.5 * there, torch.zeros(batch, 3))
    return Look(guidance, z, conditions, Progress(0, 10), *streams, frames, turntable(batch))


def test_rows_that_a_model_knows_at_one_time_are_at_one_time() -> None:
    """Four views of MVDream, the frames of a clip: the first one's draw, whatever else the stream gives."""
    each, joint = look(8), replace(look(8), at_once=4)
    drawn, shared = each.timesteps(0.02, 0.98), joint.timesteps(0.02, 0.98)
    assert len(set(drawn.tolist())) == 8
    assert shared.tolist() == drawn[[0] * 4 + [4] * 4].tolist()
    assert torch.equal(each.timesteps(0.02, 0.98)[::4], joint.timesteps(0.02, 0.98)[::4])
    few = replace(look(2), at_once=4)
    assert len(set(few.timesteps(0.02, 0.98).tolist())) == 1


def test_gradient_of_the_loss_is_g_over_b() -> None:
    z = torch.randn(5, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    g = torch.randn_like(z)
    loss, _ = loss_from_gradient(z, g)
    loss.backward()
    torch.testing.assert_close(z.grad, g / 5)
    assert loss.item() == pytest.approx(0.5 * g.square().sum().item() / 5)


def test_nan_is_removed_before_the_clamp() -> None:
    z = torch.zeros(1, 1, 1, 4, requires_grad=True)
    g = torch.tensor([float("nan"), float("inf"), -5.0, 0.5]).reshape(1, 1, 1, 4)
    loss, used = loss_from_gradient(z, g, clip=2.0)
    loss.backward()
    assert used.flatten().tolist() == [0.0, 0.0, -2.0, 0.5] == z.grad.flatten().tolist()


def test_branches_travel_in_one_call_and_zero_coefficients_do_not() -> None:
    seen = look()
    t = torch.tensor([10, 400, 900])
    state = State(seen.z, t)
    combine(seen, [Branch(state, "text", 2.0), Branch(state, "null", -1.0), Branch(state, "null", 0.0)], torch.ones(3))
    assert (seen.guidance.sizes, seen.calls, seen.rows) == ([6], 1, 6)  # type: ignore[attr-defined]
    nothing = combine(seen, [Branch(state, "text", 0.0)], torch.ones(3), torch.ones_like(seen.z), 2.0)
    assert seen.calls == 1 and (nothing == 2).all()


def test_combine_against_the_formula() -> None:
    seen = look()
    t, w, n = torch.tensor([10, 400, 900]), torch.tensor([0.2, 0.5, 2.0]), torch.randn(3, 4, 6, 6, dtype=torch.float64)
    coef = torch.tensor([1.0, 2.0, 3.0])
    got = combine(
        seen, [Branch(State(seen.z, t), "text", coef), Branch(State(2 * seen.z, t), "null", -1.5)], w, n, -0.25
    )
    b = torch.arange(3).double()
    e_text = 0.3 * seen.z + per(t / 1000, seen.z) + per(b + 0.5, seen.z)
    e_null = 0.6 * seen.z + per(t / 1000, seen.z) + per(-b, seen.z)
    expected = per(w, seen.z) * (per(coef, seen.z) * e_text - 1.5 * e_null - 0.25 * n)
    torch.testing.assert_close(got, expected)


def test_timesteps_cover_the_range_with_both_ends() -> None:
    seen = look(batch=4000)
    t = seen.timesteps(0.02, 0.98)
    assert (t.min(), t.max()) == (20, 980) and len(set(t.tolist())) > 900
    assert len(set(seen.timesteps(0.02, 0.98, shared=True).tolist())) == 1
    assert look().timesteps(1.0, 1.0).tolist() == [999] * 3
    assert look().timesteps(0.0, 0.0).tolist() == [0] * 3


@pytest.mark.parametrize("cfg", [0.0, 1.0, 7.5, 101.0])
@pytest.mark.parametrize("weight", ["sds", "uniform", "ism"])
def test_sds_against_its_formula(cfg: float, weight: str) -> None:
    from dreamlab.core.schedules import constant

    seen = look(seed=4)
    got = SDS(SDS.Settings(cfg=constant(cfg), weight=weight)).gradient(seen)
    # Independently: the same draws, then eq. 3 in full.
    noise_stream, time_stream = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
    t = torch.randint(20, 981, (3,), generator=time_stream)
    n = torch.randn(seen.z.shape, generator=noise_stream, dtype=torch.float64)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    bar = torch.cumprod(1 - betas, 0).float().double()[t]
    z_t = per(bar.sqrt(), n) * seen.z + per((1 - bar).sqrt(), n) * n
    b = torch.arange(3).double()
    e_text, e_null = (0.3 * z_t + per(t / 1000, n) + per(bias, n) for bias in (b + 0.5, -b))
    w = {"sds": 1 - bar, "uniform": torch.ones(3).double(), "ism": ((1 - bar) / bar).sqrt()}[weight]
    torch.testing.assert_close(got, per(w, n) * (e_null + cfg * (e_text - e_null) - n))
    expected_rows = {0.0: 3, 1.0: 3}.get(cfg, 6)
    assert (seen.calls, seen.rows) == (1, expected_rows)


def test_distil_reports_a_broken_network() -> None:
    class Broken(Linear):
        def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
            eps = super().predict(z_t, t_index, condition)
            eps[0, 0, 0, 0] = float("nan")
            return eps

    for guidance, healthy in ((Linear(), True), (Broken(), False)):
        seen = look()
        seen.guidance = guidance
        z = seen.z.clone().requires_grad_()
        found = distil(SDS(SDS.Settings()), seen, z)
        found.loss.backward()
        assert bool(found.finite) is healthy and torch.isfinite(z.grad).all()


def test_conditions_with_other_tables_do_not_mix() -> None:
    table = torch.zeros(2)
    same = Condition.cat(
        [Condition({"a": torch.ones(2)}, {"t": table}), Condition({"a": torch.zeros(1)}, {"t": table})]
    )
    assert same.rows["a"].tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="same tables"):
        Condition.cat([same, Condition({"a": torch.ones(2)}, {"t": torch.zeros(2)})])
