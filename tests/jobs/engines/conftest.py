# SPDX-License-Identifier: Apache-2.0
"""An S3 and a Ray cluster that all tests of a session share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jobs.engines.camp import SECRET, Camp
from tests.jobs.engines.s3 import S3Server, Weather


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    pytest.importorskip("moto", reason="moto is not installed (a judge: see .ci/run)")
    pytest.importorskip("werkzeug", reason="werkzeug is not installed (a judge: see .ci/run)")
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """In fair weather, and known to this process; what a test makes of the weather ends with it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    yield s3_server
    s3_server.weather = Weather()


@pytest.fixture(scope="session")
def camp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camp]:
    """One cluster for all tests of the session, which asks for a token."""
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET, "RAY_USAGE_STATS_ENABLED": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)  # before Ray is imported, which reads them
        pytest.importorskip("ray", reason="Ray is not installed (extra `clusters`)")
        pytest.importorskip("obstore", reason="obstore is not installed (extra `clusters`)")
        from ray._raylet import Config

        Config.initialize("")  # where another test had imported it
        made = Camp()
        try:
            yield made
        finally:
            made.close()
