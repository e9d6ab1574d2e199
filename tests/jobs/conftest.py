# SPDX-License-Identifier: Apache-2.0
"""Folders of runs that are worked by real processes, and what an undisturbed run of the same recipe gave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamlab import pipeline
from tests.conftest import artefacts, threads
from tests.jobs.office import Office

STEPS = 200
RECIPE = f"""
prompt: a red mushroom with a white stem
stages:
  - name: shape
    scene: {{kind: gaussians, count: 48, radius: 0.5}}
    terms:
      - {{guidance: {{kind: oracle, others: 1}}, system: {{kind: sds, cfg: 1.5}}}}
    steps: {STEPS}
    views: 4
    size: 32
export: {{resolution: 24, texture: 0, fit: false, turntable: 3, size: 32}}
keeping: {{checkpoint: 20, keep: 2, preview: 100, log: 5}}
"""


@pytest.fixture(scope="package")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "mushroom.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="package")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Assets and last tensors of a run that nobody touched, of the recipe's own seed."""
    with threads(1):
        run = pipeline.create(None, recipe, tmp_path_factory.mktemp("undisturbed"), [], None, [])
        pipeline.execute(run)
    return artefacts(run.path)


@pytest.fixture
def office(tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    there = Office(tmp_path / "runs", recipe)
    try:
        yield there
    finally:
        there.close()
