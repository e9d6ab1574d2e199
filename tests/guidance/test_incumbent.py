# SPDX-License-Identifier: Apache-2.0
"""The steps that `bench step` holds ours against: the same gradient, by way of everything that is claimed of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")

from benchmarks import latent
from benchmarks.incumbent import Incumbent

Made = dict[str, Path]


@pytest.fixture(scope="module")
def made(random_folder: Callable[..., Path]) -> Made:
    return {"model": random_folder("sd15")}


@pytest.mark.parametrize(("rule", "views"), [("sds", 1), ("sds", 3), ("vsd", 1), ("ism", 1)])
def test_its_gradient_is_ours(rule: str, views: int, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is another one as soon as its guidance is a tenth stronger, so that the comparison says something."""
    assert latent.same(rule, made, views) < 1e-4
    guided = Incumbent.guided

    def stronger(self: Incumbent, z: Tensor, t: Tensor, scale: float) -> Tensor:
        return guided(self, z, t, 1.1 * scale)

    monkeypatch.setattr(Incumbent, "guided", stronger)
    assert latent.same(rule, made, views) > 0.01


def test_it_does_what_it_is_timed_for(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three views: three calls with both halves, three decoded pictures, the text once in every step."""
    stage = latent.built("sds", made, 3, dtype="bfloat16")
    one, rows, pictures, texts = Incumbent(stage), list[int](), list[Tensor](), list[int]()
    model, encoder = one.model, one.encoder
    forward, decode = model.module.forward, model.codec.vae.decode
    monkeypatch.setattr(model.module, "forward", lambda z, *more: rows.append(len(z)) or forward(z, *more))
    monkeypatch.setattr(model.codec.vae, "decode", lambda z: pictures.append(z) or decode(z))
    monkeypatch.setattr(one, "encoder", lambda said: texts.append(len(said)) or encoder(said))
    for _ in range(2):
        one.step()
    assert rows == [2] * 6 and len(pictures) == 6 and texts == [2, 2]
    assert set(one.read) == {"loss", "norm", "alpha"} and all(torch.tensor(list(one.read.values())).isfinite())
    quiet = Incumbent(stage, listening=False)
    monkeypatch.setattr(quiet, "encoder", None)
    quiet.step()


def test_the_eighth_of_the_widths_keeps_the_shares_of_a_step(tmp_path: Path) -> None:
    """Of two predictions and the way there and back through the encoder; at full size 41 and 59 in a hundred."""
    from torch.utils.flop_counter import FlopCounterMode

    from guidance.layouts.random import write_random

    write_random(latent.eighth(), "tiny", tmp_path / "sd")
    stage = latent.built("sds", {"model": tmp_path / "sd"})
    model = stage.terms[0].guidance
    with FlopCounterMode(display=False) as counter:
        latent.Ours(stage)
    whole = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        z = model.encode(torch.zeros(1, 128, 128, 3, requires_grad=True))
        z.sum().backward()
    assert 0.4 < counter.get_total_flops() / whole < 0.75
