# SPDX-License-Identifier: Apache-2.0
"""A guidance that outlives its run changes nothing of the next one, and is let go when there is too much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamlab import pipeline
from dreamlab.core.settings import Spec
from dreamlab.jobs.resident import Resident, bytes_of
from tests.conftest import Commands, artefacts, threads

RECIPE = """
prompt: a red mushroom
stages:
  - name: shape
    scene: {kind: gaussians, count: 32, radius: 0.5}
    terms:
      - {guidance: {kind: toybox, unknown: skip}, system: {kind: sds, cfg: 5}}
      - {guidance: {kind: oracle, others: 1}, system: {kind: sds, cfg: 2}}
    steps: 4
    views: 2
    size: 16
export: {resolution: 16, texture: 0, fit: false, turntable: 2, size: 32}
keeping: {checkpoint: 4, preview: 100, log: 2}
"""
GIB = 1 << 30
CPU = torch.device("cpu")


def test_a_run_after_another_in_one_process_is_that_of_a_fresh_one(
    dreamlab: Commands, tmp_path: Path, one_thread: None
) -> None:
    kept = after_another(dreamlab, tmp_path, RECIPE)
    assert kept.loaded == 3, "the prior once, a mixture of the world for each run"
    assert len(kept) == 1


def test_nor_does_a_pretrained_model_remember_what_a_run_trained_and_said(
    dreamlab: Commands, tmp_path: Path, one_thread: None
) -> None:
    """One of random weights, to which the first run gives a LoRA of its own (VSD) and other texts."""
    from guidance.layouts.random import write_random

    model = write_random("sd15", "tiny", tmp_path / "sd15", 0)
    term = f"{{guidance: {{kind: sd, model: {model}/, dtype: float32}}, system: {{kind: vsd, cfg: 2}}}}"
    head, _, rest = RECIPE.partition("      - ")
    kept = after_another(dreamlab, tmp_path, f"{head}      - {term}\n    steps{rest.partition('    steps')[2]}")
    assert (kept.loaded, len(kept)) == (1, 1)


def after_another(dreamlab: Commands, tmp_path: Path, text: str) -> Resident:
    """Two runs, one after the other, by one shelf; the second is that of a process of its own."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    wanted = {"a red mushroom": "seed=1", "a blue chair": "seed=2"}
    ended = dreamlab("dream", "a blue chair", "seed=2", "--recipe", str(recipe))
    assert ended.code == 0, ended.err
    kept, runs = Resident(GIB), []
    for prompt, seed in wanted.items():
        run = pipeline.create(prompt, recipe, tmp_path / "resident", [seed], None, [])
        pipeline.execute(run, shelf=kept)
        kept.settle()
        runs.append(run)
    assert artefacts(runs[1].path) == artefacts(tmp_path / ended.out.splitlines()[-1])
    assert artefacts(runs[0].path) != artefacts(runs[1].path)
    return kept


class Model:
    """A guidance as far as the shelf sees it."""

    def __init__(self, size: int, renews: bool = True) -> None:
        self.net, self.extra, self.renews = nn.Linear(size, size, bias=False), {"rows": [torch.zeros(size)]}, renews

    def renew(self) -> bool:
        return self.renews


class Once:
    """One that nothing is known of."""

    weight: Tensor = torch.zeros(4)


@dataclass(frozen=True)
class Named:
    name: str


def spec(name: str) -> Spec:
    return Spec("toybox", Named(name))


def lent(kept: Resident, name: str, model: object) -> object:
    return kept.guidance(spec(name), CPU, lambda: model)  # type: ignore[arg-type, return-value]


def test_only_what_can_be_as_new_is_kept() -> None:
    kept = Resident(GIB)
    again, spoilt, unknown = Model(2), Model(2, renews=False), Once()
    for name, model in (("again", again), ("spoilt", spoilt), ("unknown", unknown)):
        assert lent(kept, name, model) is model
        assert lent(kept, name, Model(2)) is model, "within a run it is the same"
    kept.settle()
    assert len(kept) == 1
    assert lent(kept, "again", Model(2)) is again
    assert lent(kept, "spoilt", Model(2)) is not spoilt
    kept.settle(sound=False)
    assert len(kept) == 0, "a run that failed may have left anything"


def test_settings_and_device_decide() -> None:
    kept, model = Resident(GIB), Model(2)
    lent(kept, "one", model)
    kept.settle()
    elsewhere = kept.guidance(spec("one"), torch.device("meta"), lambda: Model(2))  # type: ignore[arg-type, return-value]
    assert elsewhere is not model


def test_bounds_of_count_and_memory() -> None:
    assert bytes_of(Model(16)) == 16 * 16 * 4 + 16 * 4
    kept = Resident(memory=3 * 1088, most=2, beside=1088)
    for name in "abc":
        lent(kept, name, Model(16))
        kept.settle(name=name.upper())
    assert len(kept) == 2, "a is the longest unused"
    assert kept.names() == ("B", "C")
    big = Model(64)
    lent(kept, "big", big)
    assert kept.bytes() == 1088 + bytes_of(big), "beside a run lies only what is small"
    kept.settle(name="BIG")
    assert kept.bytes() <= 3 * 1088, "and too large a one is not kept"
    assert "BIG" not in kept.names()


def test_a_model_that_gave_something_up_is_not_for_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from guidance.latent.memory import Ladder
    from guidance.latent.model import LatentModel, ModelSettings
    from guidance.latent.text import Heard

    class Bare(LatentModel):
        def __init__(self, settings: ModelSettings) -> None:
            self.settings, self.ladder = settings, Ladder(1)
            self.heard = Heard(lambda device: lambda texts: {"text": torch.zeros(len(texts), 1)})

        def text_encoder(self, device: torch.device):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        def answer(self, z, time, condition):  # type: ignore[no-untyped-def]
            raise NotImplementedError

    model = Bare(ModelSettings())
    model.heard.hear(["a", "b"])
    assert model.renew()
    model.heard.hear(["a"])
    assert model.heard.times_loaded == 2, "what is encoded in another batch is encoded again"
    model.relieve()
    assert not model.renew()
    for settings in (ModelSettings(compile=True), ModelSettings(encoder="hybrid")):
        assert not Bare(settings).renew()


def test_threads_are_those_of_a_fresh_process(tmp_path: Path, tiny: Path) -> None:
    """A run leaves the process as it found it."""
    with threads(1):
        run = pipeline.create(None, tiny, tmp_path / "runs", [], None, [])
        run.set_state(threads=2)
        before = torch.get_deterministic_debug_mode()
        kept = Resident(GIB)
        pipeline.execute(run, shelf=kept)
        assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (1, before)
