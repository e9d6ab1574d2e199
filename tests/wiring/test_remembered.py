# SPDX-License-Identifier: Apache-2.0
"""What rules and prompting remember goes through the real checkpoint: saved by `train.save`, taken up by `restore`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab import recipe
from dreamlab.core.errors import Interrupted
from dreamlab.recipe.tables import TABLES
from dreamlab.run import checkpoint, train
from dreamlab.run.assemble import Assembler
from dreamlab.run.folder import Run
from dreamlab.run.signals import StopSignal
from tests.conftest import Commands, artefacts

TEXT = """
prompt: a red mushroom
stages:
  - name: shape
    scene: {kind: gaussians, count: 24, radius: 0.5}
    terms:
      - guidance: {kind: oracle, others: 1}
        system: RULE
        prompting: ASKING
    steps: STEPS
    views: 2
    size: 12
export: {resolution: 24, turntable: 2, size: 32}
keeping: {checkpoint: 2, keep: 2, preview: 1000, log: 1}
"""
RULES = {
    "vsd": "{kind: vsd, width: 8, cfg: 3}",
    "bootstrapped": "{kind: bootstrapped, width: 8, cycle: 5, dream: 0.4, renew: 1, polish: 2}",
    "cds": "{kind: cds, cfg: 3}",
    "cfd": "{kind: cfd, cfg: 3, texels: 8, sub: 1, refresh: 0.1}",
    "dsd": "{kind: dsd, cfg: 3, steps: 3}",
    "sds": "{kind: sds, cfg: 3}",
}
ADAPTIVE = {"vsd", "cds", "cfd", "sds"}
LONG = "sds"  # past the second reading of what guidance moved, which comes at step 16


def text(rule: str) -> str:
    made = TEXT.replace("RULE", RULES[rule]).replace("ASKING", "{adaptive: 0.9}" if rule in ADAPTIVE else "{}")
    return made.replace("STEPS", "24" if rule == LONG else "10")


def sat_through(folder: Path, source: str, stops: tuple[int, ...]) -> tuple[dict[str, dict[str, Tensor]], Run]:
    """The parts of the last checkpoint of a run that was stopped after so many steps, and taken up anew each time."""
    made = recipe.load(source, TABLES)
    run = Run.create(folder, source, made.prompt, [])
    for until in (*stops, None):
        stop = StopSignal()

        def tick(now: train.Tick, stop: StopSignal = stop, until: int | None = until) -> None:
            stop.requested = until is not None and now.done >= until

        try:
            train.train(run, made, Assembler(made, "cpu"), tick, stop)
        except Interrupted:
            continue
    found = checkpoint.read_newest(run.ckpt)
    assert found is not None and found.meta["global_step"] == made.stages[0].steps
    return found.parts, run


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_and_its_prompting_go_on_as_if_nothing_had_happened(tmp_path: Path, rule: str, one_thread: None) -> None:
    whole, _ = sat_through(tmp_path / "whole", text(rule), ())
    parts, _ = sat_through(tmp_path / "parts", text(rule), (3, 18) if rule == LONG else (3, 6))
    expected = {"scene", "optimiser", "streams"}
    expected |= {f"system.0_{rule}"} if rule != "sds" else set()
    expected |= {f"asking.0_{rule}"} if rule in ADAPTIVE else set()
    assert whole.keys() == parts.keys() == expected
    for name, tensors in whole.items():
        torch.testing.assert_close(parts[name], tensors, rtol=0, atol=0, msg=f"{rule}: {name}")


def test_a_killed_run_of_a_rule_with_a_network_ends_with_the_same_bytes(dreamlab: Commands, tmp_path: Path) -> None:
    """Real processes: killed in the middle of two checkpoints, resumed twice; scene, moments, eps_phi, skips, GLB."""
    source = tmp_path / "vsd.yaml"
    source.write_text(text("vsd"))
    arguments = ("dream", "a red mushroom", "--recipe", str(source), "--out")
    whole = dreamlab(*arguments, "whole")
    assert whole.code == 0, whole.err
    killed = dreamlab(*arguments, "killed", DREAMLAB_CRASH_AT="ckpt.half_written:2")
    assert killed.code == -signal.SIGKILL
    (run,) = (tmp_path / "killed").iterdir()
    assert dreamlab("resume", str(run), DREAMLAB_CRASH_AT="ckpt.before_rename:2").code == -signal.SIGKILL
    ended = dreamlab("resume", str(run))
    assert ended.code == 0, ended.err
    expected, got = artefacts(tmp_path / whole.out.splitlines()[-1]), artefacts(run)
    assert {"system.0_vsd.safetensors", "asking.0_vsd.safetensors"} <= expected.keys()
    assert got == expected
