# SPDX-License-Identifier: Apache-2.0
"""Imports beside what runs: a fork waits for them, a missing package is nobody's error yet, training waits for none."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path

import pytest

from dreamlab import pipeline
from dreamlab.core import ahead
from dreamlab.core.bounded import bounded
from dreamlab.pipeline import then
from dreamlab.run.train import Tick


def test_a_child_is_forked_when_the_imports_are_done() -> None:
    may, done = threading.Event(), threading.Event()

    def imports() -> None:
        may.wait(10)
        done.set()

    ahead.begin(imports)
    assert not done.is_set()
    threading.Timer(0.1, may.set).start()
    assert bounded(lambda: ({}, {"done": done.is_set()}), "work").facts == {"done": True}


def test_a_missing_package_is_said_by_what_needs_it(recwarn: pytest.WarningsRecorder) -> None:
    ahead.begin(lambda: importlib.import_module("no_such_package"))
    ahead.settled()
    assert not recwarn.list, "an exception of a thread is a warning of pytest's"


def test_they_begin_after_the_first_tick_and_once() -> None:
    said: list[str] = []
    on_tick = then(lambda tick: said.append(f"tick {tick.step}"), lambda: said.append("begin"))
    for step in (10, 20):
        on_tick(Tick("shape", step, 20, step, 20, {}))
    assert said == ["tick 10", "begin", "tick 20"]


def test_a_run_imports_what_its_export_needs_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(pipeline, "warm", lambda: said.append(threading.current_thread().name))
    monkeypatch.setattr(pipeline, "export_mesh", lambda *_, **__: said.append("export") or [])
    monkeypatch.setattr(pipeline, "export_pictures", lambda *_, **__: [])
    run = pipeline.create(None, Path("configs/fit-gaussians.yaml"), tmp_path, ["steps=2"], None, ["test"])
    pipeline.execute(run)
    assert said == ["imports", "export"]
