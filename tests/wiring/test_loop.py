# SPDX-License-Identifier: Apache-2.0
"""The real loop on the toy: roll-backs, resumption, stages. The toy's gradient never changes sign, so each healthy step
moves the colour by the rate exactly, and where a run ends can be counted on fingers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.errors import Diverged, Interrupted
from dreamlab.core.types import Condition
from dreamlab.recipe.tables import TABLES
from dreamlab.run import train
from dreamlab.run.assemble import Assembler
from dreamlab.run.folder import Run
from dreamlab.run.signals import StopSignal
from dreamlab.run.train import Tick
from tests.wiring.toy import Flat, Tile, Toy, flat, stepped, term
from tests.wiring.toy import toys as toys

pytestmark = pytest.mark.usefixtures("toys")
RATE, START = 0.01, 0.25


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """Makes the chosen calls of the model, counted over all of them from 1, answer nan."""
    bad: set[int] = set()
    count = [0]
    sound = Flat.predict

    def predict(self: Flat, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        count[0] += 1
        eps = sound(self, z_t, t_index, condition)
        return torch.full_like(eps, math.nan) if count[0] in bad else eps

    monkeypatch.setattr(Flat, "predict", predict)
    return bad.update


class Going:
    """A run of the toy in a folder, in as many sittings as one likes."""

    def __init__(self, folder: Path, text: str) -> None:
        self.recipe = recipe.load(text, TABLES)
        self.run = Run.create(folder, text, self.recipe.prompt, [])
        self.ticks: list[Tick] = []
        self.assembler = Assembler(self.recipe, "cpu")

    def sit(self, until: int | None = None) -> Tile:
        """Train to the end, or ask for a stop once `until` steps are done."""
        self.assembler, stop = Assembler(self.recipe, "cpu"), StopSignal()

        def tick(now: Tick) -> None:
            self.ticks.append(now)
            stop.requested = stop.requested or (until is not None and now.done >= until)

        scene = train.train(self.run, self.recipe, self.assembler, tick, stop)
        assert isinstance(scene, Tile)
        return scene

    def model(self) -> Flat:
        return flat(self.assembler.stage(0))

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.run.events()]


def colour(scene: Tile) -> float:
    values = scene.state_dict()["color"]
    assert (values == values[0]).all()
    return float(values[0])


def test_an_undisturbed_run_moves_by_the_rate_in_every_step(tmp_path: Path) -> None:
    going = Going(tmp_path, Toy().text())
    assert colour(going.sit()) == pytest.approx(START - 10 * RATE, abs=1e-6)
    assert [(t.stage, t.step, t.steps, t.done, t.total) for t in going.ticks] == [
        ("one", i, 10, i, 10) for i in range(1, 11)
    ]


def test_after_a_roll_back_each_step_is_half_as_long(tmp_path: Path, sick: Callable[[set[int]], None]) -> None:
    """Steps 4 and 5 are bad: back to the checkpoint of step 4, and the six steps from there at half the rate."""
    sick({5, 6})
    going = Going(tmp_path, Toy().text())
    assert colour(going.sit()) == pytest.approx(START - 4 * RATE - 6 * RATE / 2, abs=1e-6)
    assert going.kinds().count("rollback") == 1


def test_a_second_roll_back_halves_again_and_a_resumed_run_keeps_it(
    tmp_path: Path, sick: Callable[[set[int]], None]
) -> None:
    """Calls 3, 4 fail (step 2), then 5, 6 (step 2 again); steps 2 to 9 go at a quarter, across a resumption."""
    sick({3, 4, 5, 6})
    going = Going(tmp_path, Toy().text())
    with pytest.raises(Interrupted):
        going.sit(until=5)
    assert going.run.state()["state"] == "interrupted"
    assert colour(going.sit()) == pytest.approx(START - 2 * RATE - 8 * RATE / 4, abs=1e-6)


def test_after_the_last_allowed_roll_back_the_run_gives_up(tmp_path: Path, sick: Callable[[set[int]], None]) -> None:
    sick(set(range(3, 9)))
    going = Going(tmp_path, Toy().text())
    with pytest.raises(Diverged):
        going.sit()
    assert going.kinds().count("rollback") == 2 and len(going.model().calls) == 8
    assert going.run.state()["state"] == "failed"


def test_without_a_checkpoint_the_run_begins_again_with_the_draws_of_its_beginning(
    tmp_path: Path, sick: Callable[[set[int]], None]
) -> None:
    sick({1, 2})
    going = Going(tmp_path, Toy().text())
    assert colour(going.sit()) == pytest.approx(START - 10 * RATE / 2, abs=1e-6)
    seen = [at.camera_to_world for _, at, _ in going.model().asked]
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    first, again = going.model().states[0][0], going.model().states[2][0]
    assert torch.equal(first, again), "times and noise too"


def test_bad_steps_are_counted_in_a_row_and_across_a_resumption(
    tmp_path: Path, sick: Callable[[set[int]], None]
) -> None:
    """Bad, good, bad is no row; bad, stop, bad is one."""
    sick({2, 4})
    apart = Going(tmp_path / "apart", Toy().text())
    assert colour(apart.sit()) == pytest.approx(START - 8 * RATE, abs=1e-3) and "rollback" not in apart.kinds()
    sick({10 + 4, 10 + 5})
    row = Going(tmp_path / "row", Toy().text())
    with pytest.raises(Interrupted):
        row.sit(until=4)
    assert "rollback" not in row.kinds()
    row.sit()
    assert row.kinds().count("rollback") == 1


def test_a_resumed_run_ends_where_it_would_have(tmp_path: Path) -> None:
    """Schedules, cameras, noise and moments: the toy's own course in one sitting, and in three."""
    stage = "regularisers: {opacity: 1}"
    text = Toy(scene="lr_color: {from: 0.04, to: 0.001}, regrow: 5", stage=stage).text()
    whole, parts = Going(tmp_path / "whole", text), Going(tmp_path / "parts", text)
    expected = whole.sit().state_dict()
    shown = [at.camera_to_world for _, at, _ in whole.model().asked]
    seen = []
    for until in (3, 7):
        with pytest.raises(Interrupted):
            parts.sit(until)
        seen += [at.camera_to_world for _, at, _ in parts.model().asked]
    got = parts.sit().state_dict()
    seen += [at.camera_to_world for _, at, _ in parts.model().asked]
    assert len(seen) == len(shown) and all(torch.equal(a, b) for a, b in zip(seen, shown, strict=True))
    assert all(torch.equal(got[name], expected[name]) for name in expected)


THREE = """
prompt: a red ball
stages:
  - {name: one, scene: {kind: tile}, terms: [TERM], steps: 4, size: 8}
  - {name: two, scene: {kind: tile, start: 0.9}, terms: [TERM], steps: 3, size: 8}
  - {name: three, scene: {kind: tile, start: 0.7, from: one, lr_color: 0.02}, terms: [TERM], steps: 2, size: 8}
keeping: {checkpoint: 2, keep: 3, preview: 4, log: 1}
"""


@pytest.mark.parametrize("stops", [(), (6,), (2, 8)])
def test_a_stage_takes_over_from_the_stage_it_names(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """`three` goes on from where `one` ended, not from `two`, also when the run is resumed in between."""
    going = Going(tmp_path, THREE.replace("TERM", term()))
    for until in stops:
        with pytest.raises(Interrupted):
            going.sit(until)
    assert colour(going.sit()) == pytest.approx(START - 4 * RATE - 2 * 0.02, abs=1e-6)
    names = [(t.stage, t.step, t.steps, t.done, t.total) for t in going.ticks]
    assert names == [
        *((("one", i, 4, i, 9)) for i in range(1, 5)),
        *((("two", i, 3, 4 + i, 9)) for i in range(1, 4)),
        *((("three", i, 2, 7 + i, 9)) for i in range(1, 3)),
    ]
    events = [(e["stage"], e["step"], e["global_step"]) for e in going.run.events() if e["kind"] == "metrics"]
    assert events == [(t.stage, t.step - 1, t.done) for t in going.ticks]
    assert sorted(path.name for path in going.run.previews.iterdir()) == [
        f"step_{done:06d}.png" for done in (4, 7, 9)
    ]  # every fourth step of a stage, and its last
    if not stops:
        kept = sorted(path.name for path in going.run.ckpt.iterdir())
        assert kept == ["step_000006", "step_000007", "step_000009"]


def test_only_scenes_that_a_later_stage_names_are_kept(tmp_path: Path) -> None:
    going = Going(tmp_path, THREE.replace("TERM", term()))
    with pytest.raises(Interrupted):
        going.sit(until=6)
    parts = {path.stem for path in (going.run.ckpt / "step_000006").glob("*.safetensors")}
    assert parts == {"scene", "optimiser", "streams", "finished.one"}
    going.sit()
    parts = {path.stem for path in (going.run.ckpt / "step_000009").glob("*.safetensors")}
    assert parts == {"scene", "optimiser", "streams"}, "nothing comes after the last stage"


def test_models_with_equal_settings_are_one_model(tmp_path: Path) -> None:
    stage = Toy(terms=f"{term()}, {term(rule='text: 2')}, {term(flat='shift: 1')}").built()
    first, second, other = (each.guidance for each in stage.terms)
    assert first is second and first is not other
    assert [each.name for each in stage.terms] == ["0_csd", "1_csd", "2_csd"]
    stepped(stage)
    assert len(flat(stage).calls) == 2 and len(flat(stage, 2).calls) == 1
