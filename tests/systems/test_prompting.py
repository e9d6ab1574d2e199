# SPDX-License-Identifier: Apache-2.0
"""Perp-Neg and adaptive guidance in the engine: against the formulas, sample by sample, with the calls counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.noise import NoiseTable
from dreamlab.core.prompting import Asking, Prompting, perp_neg_weights
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Condition
from systems.asd import ASD
from systems.csd import CSD
from systems.engine.residual import Look, paired
from systems.nfsd import NFSD
from systems.sds import SDS
from tests.systems.test_residual import Linear, look
from tests.systems.test_rules import BAR, Draws, noisy

WORDS = ("text", "null", "negative", "front", "side", "back", "overhead")


class Worded(Linear):
    """eps = 0.3 z_t + a picture of its own per condition and sample, so that directions are not parallel."""

    def __init__(self, agree: float = 1.0) -> None:
        super().__init__()
        self.table = NoiseTable(self.table.alpha_bar)
        self.pictures = torch.randn(7, 40, 4, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.pictures[1] = self.pictures[0] + agree * (self.pictures[1] - self.pictures[0])

    def said(self, count: int) -> Mapping[str, Condition]:
        rows = torch.arange(count)
        return {name: Condition({"k": torch.full((count,), k), "b": rows}) for k, name in enumerate(WORDS)}

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        self.sizes.append(len(z_t))
        return 0.3 * z_t + self.pictures[condition.rows["k"], condition.rows["b"]]


def asked(how: Prompting, cameras: Cameras, model: Worded, seed: int = 4, asking: Asking | None = None) -> Look:
    z = look(len(cameras), seed=seed).z
    streams = torch.Generator().manual_seed(seed + 1), torch.Generator().manual_seed(seed + 2)
    said = model.said(len(cameras))
    return Look(model, z, said, Progress(0, 10), *streams, None, cameras, asking or Asking(how))


def by_hand(model: Worded, z: Tensor, b: int, cameras: Cameras, base: str, how: Prompting) -> tuple[Tensor, Tensor]:
    """eps of text bent by Perp-Neg and of the base, for one sample, in plain words of the paper."""
    said = {name: 0.3 * z + model.pictures[k, b] for k, name in enumerate(WORDS)}
    away, weights = perp_neg_weights(cameras, how)
    own = said["text"] - said[base]
    total = said["text"]
    for i in range(2):
        direction = said[("front", "side", "back", "overhead")[int(away[b, i])]] - said[base]
        right = direction - (direction * own).sum() / (own * own).sum() * own
        total = total + float(weights[b, i]) * right
    return total, said[base]


@pytest.mark.parametrize("rule", ["sds", "csd", "nfsd", "asd"])
def test_perp_neg_on_a_batch_equals_its_samples_one_by_one(rule: str) -> None:
    """The published batching evaluates a negative on another sample's latent once there are two; ours must not."""
    how, cameras, model = Prompting(perp_neg=1.0), turntable(3), Worded()
    seen = asked(how, cameras, model)
    settings: dict[str, Any] = {"cfg": constant(20.0)}
    base = "null"
    if rule == "sds":
        got = SDS(SDS.Settings(**settings)).gradient(seen)
    elif rule == "nfsd":  # its guidance is against null, whatever delta_D says of the negative prompt
        got = NFSD(NFSD.Settings(**settings, switch=0.0)).gradient(seen)
    elif rule == "asd":  # with no shift: the later text stands alone, so nothing bends it
        ends = {"t_min": constant(0.02), "t_max": constant(0.98), "rho": 0.0}
        got = ASD(ASD.Settings(**settings, **ends)).gradient(seen)
    else:  # towards the negative prompt the right angle is taken to it, as in CSD's code
        got = CSD(CSD.Settings(negative=constant(-1.0), null=constant(0.0))).gradient(seen)
        base = "negative"
    draws = Draws(4)
    t, n = draws.times(20, 980), draws.noise()
    z_t = noisy(draws.z, n, t)
    for b in range(3):
        text, other = by_hand(model, z_t[b], b, cameras, base, how)
        said = {name: 0.3 * z_t[b] + model.pictures[k, b] for k, name in enumerate(WORDS)}
        less = {"sds": n[b], "nfsd": said["negative"], "asd": said["text"], "csd": 0.0}[rule]
        residual = text - other if rule == "csd" else other + 20.0 * (text - other) - less
        torch.testing.assert_close(got[b], float(1 - BAR[t[b]]) * residual, rtol=1e-4, atol=1e-5)
    assert model.sizes == [12 + 3 * (rule in ("nfsd", "asd"))]  # four pictures per sample and the rest, one call


def test_perp_neg_leaves_alone_what_no_words_of_direction_are_said_to() -> None:
    """A guided pair of other conditions (csds, a visual prompt) is as it is without; the text beside it is bent."""
    how, cameras = Prompting(perp_neg=1.0), turntable(3)
    found = {}
    for asked_for in (how, Prompting()):
        seen = asked(asked_for, cameras, Worded())
        state = seen.noised(seen.noise(), torch.tensor([100, 500, 900]))
        found[asked_for] = seen.predict([*paired(state, "side", "negative"), *paired(state)])
    (side, _, text, _), (plain, _, straight, _) = found[how], found[Prompting()]
    torch.testing.assert_close(side, plain, rtol=0, atol=0)
    assert (text - straight).abs().max() > 0.1


def test_adaptive_guidance_skips_what_does_not_matter_and_counts() -> None:
    """Text and null 1e-3 apart: after the first readings most unconditional rows are left out; far apart: none is."""
    rows = {}
    for agree in (1.0, 1e-4):
        model, asking = Worded(agree), Asking(Prompting(adaptive=0.05))
        for step in range(100):
            seen = asked(asking.how, turntable(2), model, step, asking)
            got = SDS(SDS.Settings(cfg=constant(7.5))).gradient(seen)
        rows[agree] = sum(model.sizes)
        assert asking.skips is not None and asking.skips.asked + asking.skips.skipped == 200
        assert rows[agree] == 200 + asking.skips.asked
    assert rows[1.0] == 400 and rows[1e-4] < 320, rows
    # A row that was left out answers as the text does: g is that of scale 1 there, and near that of 7.5 anyway.
    free = SDS(SDS.Settings(cfg=constant(7.5))).gradient(asked(Prompting(), turntable(2), Worded(1e-4), 99))
    assert (got - free).abs().max() < 0.01


def test_what_adaptive_guidance_knows_survives_a_checkpoint() -> None:
    first, model = Asking(Prompting(adaptive=0.05)), Worded(1e-4)
    for step in range(40):
        SDS(SDS.Settings()).gradient(asked(first.how, turntable(2), model, step, first))
    again = Asking(first.how)
    again.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for asking in (first, again):
        model.sizes.clear()
        for step in range(40, 80):
            SDS(SDS.Settings()).gradient(asked(asking.how, turntable(2), model, step, asking))
        assert sum(model.sizes) < 160
    torch.testing.assert_close(first.state_dict(), again.state_dict(), rtol=0, atol=0)
