# SPDX-License-Identifier: Apache-2.0
"""One finished run, made over REST and worked off in this process, for all tests that only look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dreamlab.studio.studio import Studio
from tests.studio import serving


@dataclass(frozen=True)
class Done:
    """A studio of two owners, in which ann has a finished job."""

    studio: Studio
    id: str
    ann: TestClient
    bob: TestClient


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    studio = serving.studio(tmp_path_factory.mktemp("studio") / "runs", users=serving.USERS, mcp=True)
    ann, bob = (serving.client(studio, name) for name in serving.USERS)
    made = ann.post("/v1/jobs", json=serving.body())
    assert made.status_code == 202, made.text
    (job,) = serving.work(studio.root)
    assert job.state == "succeeded"
    return Done(studio, job.id, ann, bob)


@pytest.fixture(scope="session")
def at_work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    """A studio with its page and a worker, for all tests that look at jobs in a browser."""
    with serving.serving(tmp_path_factory.mktemp("at-work") / "runs", page=True) as server:
        yield server


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """An empty one without users."""
    return serving.studio(tmp_path / "runs")


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with serving.client(studio) as found:
        yield found
