# SPDX-License-Identifier: Apache-2.0
"""One run by the ranks of Ray Train, on a real cluster of this machine: one is killed, a node is lost, none is begun
again for a fault of the run's own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamlab.core.errors import DreamError, InputError, Interrupted
from dreamlab.jobs.engines import raytrain
from dreamlab.pipeline import execute
from dreamlab.run.checkpoint import committed, read_at
from dreamlab.run.folder import Run
from tests.conftest import threads
from tests.jobs.engines.camp import PATIENCE_S, Camp, crash, until
from tests.run.test_ranks import near

pytestmark = [pytest.mark.dist, pytest.mark.slow]
STEPS = 300  # enough for a node to be lost before the end
RECIPE = f"""
prompt: a red mushroom
stages:
  - name: shape
    scene: {{kind: gaussians, count: 48, radius: 0.5, lr_quats: 0}}
    terms: [{{guidance: {{kind: oracle, others: 1}}, system: {{kind: sds, cfg: 1.5}}}}]
    steps: {STEPS}
    views: 3
    size: 12
export: {{resolution: 24, texture: 0, fit: false, pictures: []}}
keeping: {{checkpoint: 10, keep: 9, preview: {STEPS}, log: 10}}
"""


@pytest.fixture
def ray_train(camp: Camp, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow", reason="Ray Train needs pyarrow, which is not installed (a judge: see .ci/run)")
    # Of a lost node it believes for a while that it is there, and waits for workers on it; by itself a minute.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")


class Fitting(threading.Thread):
    """A driver in a thread of this process."""

    def __init__(self, run: Run, ranks: int, least: int = 0) -> None:
        super().__init__(daemon=True)
        self.run_folder, self.ranks, self.least = run, ranks, least
        self.files: list[Path] = []
        self.error: DreamError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.files = raytrain.fit(self.run_folder, self.ranks, self.least)
        except DreamError as error:
            self.error = error

    def until(self, what: Callable[[], object], said: str) -> None:
        until(lambda: what() or not self.is_alive(), said)
        assert self.is_alive(), f"Ray Train has ended ({self.error}), but not {said}"

    def over(self) -> None:
        self.join(PATIENCE_S)
        assert not self.is_alive(), "Ray Train does not end"


def told(run: Run, kind: str) -> list[dict[str, object]]:
    return [event for event in run.events() if event["kind"] == kind]


@pytest.mark.release  # ranks of torchrun die in every landing; here most of the time is Ray starting workers
@pytest.mark.usefixtures("ray_train")
def test_a_rank_is_killed_then_a_node_is_lost_and_the_run_goes_on(camp: Camp, tmp_path: Path) -> None:
    """Two ranks, then two again, then the one that there is room for; the scene is that of a single process."""
    run, once = Run.create(tmp_path / "runs", RECIPE, "a red mushroom", []), tmp_path / "once"
    with camp.nodes(*[crash("ckpt.after_rename:1", once) | {"OMP_NUM_THREADS": "1"}] * 2) as nodes:
        fitting = Fitting(run, 2, least=1)
        fitting.until(
            lambda: once.exists() and len(told(run, "start")) == 2, "the one that writes died and all began anew"
        )
        fitting.until(lambda: told(run, "checkpoint"), "a checkpoint of the second attempt")
        camp.remove(nodes[1])
        fitting.over()
    assert fitting.error is None and [path.name for path in fitting.files][:1] == ["model.glb"]
    assert [event["ranks"] for event in told(run, "start")] == [2, 2, 1]
    made = [event["path"] for event in told(run, "checkpoint")]
    assert len(made) == len(set(made)), "what was in a checkpoint is not done again"
    alone = Run.create(tmp_path / "alone", RECIPE, "a red mushroom", [])
    with threads(1):
        execute(alone)
    several, single = (read_at(each.ckpt, STEPS) for each in (run, alone))
    assert several is not None and single is not None and several.meta == single.meta
    for name, value in single.parts["scene"].items():
        near(several.parts["scene"][name], value, name)
    assert not (run.path / raytrain.BOOKS).exists() and run.state()["state"] == "succeeded"


@pytest.mark.usefixtures("ray_train")
def test_what_is_wrong_is_said_once_and_a_signal_leaves_a_checkpoint(camp: Camp, tmp_path: Path) -> None:
    wrong = Run.create(tmp_path / "wrong", RECIPE.replace("views: 3", "views: 1"), "a red mushroom", [])
    longer = RECIPE.replace(f"steps: {STEPS}", "steps: 9000").replace("checkpoint: 10", "checkpoint: 9000")
    run = Run.create(tmp_path / "runs", longer, "a red mushroom", [])

    def interrupt() -> None:
        until(lambda: told(run, "metrics"), "the run goes on")
        if callable(signal.getsignal(signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGTERM)

    with camp.nodes({}, {}):
        with pytest.raises(raytrain.Failed, match="1 views, which 2 processes cannot share") as refused:
            raytrain.fit(wrong, 2)
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(Interrupted, match="the newest checkpoint is kept") as stopped:
            raytrain.fit(run, 2)
    assert (refused.value.exit_code, stopped.value.exit_code) == (2, 75)
    assert wrong.state()["state"] == "failed" and told(wrong, "start") == []
    state = run.state()
    assert state["state"] == "interrupted" and 0 < state["step"] < 9000
    assert [each.name for each in committed(run.ckpt)] == [f"step_{state['step']:06d}"]


def test_a_run_that_is_there_takes_no_settings(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RECIPE, "a red mushroom", [])
    assert raytrain.opened(str(run.path), [], "", tmp_path, 2).path == run.path
    with pytest.raises(InputError, match="leave them out"):
        raytrain.opened(str(run.path), ["views=4"], "", tmp_path, 2)
