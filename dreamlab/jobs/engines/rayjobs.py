# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster's Jobs interface, over HTTP and without Ray: submit a command, ask how it stands, stop it. The token is
of this process alone: it goes into one header, to one address, and into no message."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from dreamlab.core.errors import DreamError, InputError
from dreamlab.core.files import Json
from dreamlab.core.redirects import StayHere
from dreamlab.core.text import short

TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - the variable, as Ray calls it
PATIENCE_S = 10.0  # of one question
RUNNING = ("PENDING", "RUNNING")
STOP_S = 60  # for a run to leave its checkpoint when its job is stopped; three seconds are Ray's own


class ClusterAway(DreamError):
    """It does not answer, or not as a cluster does; it may do so later."""

    exit_code = 75


@dataclass(frozen=True)
class RayJob:
    """As the cluster tells of one."""

    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED
    message: str = ""


class RayJobs:
    """One cluster. `token`: none where it asks for none."""

    def __init__(self, address: str, token: str = "") -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise InputError(f"--ray-address {short(address)!r}: write http://HOST:8265, the dashboard's address")
        if token and not token.isascii():
            raise InputError("the cluster's token holds characters that no token has")
        self.address, self._token = f"{parts.scheme}://{parts.netloc}", token
        self._open = urllib.request.build_opener(StayHere, urllib.request.ProxyHandler({})).open

    def check(self) -> None:
        """Whether it is there and lets us in."""
        self._ask("GET", "/api/version")

    def submit(self, id: str, command: str, gpus: float, environment: Mapping[str, str]) -> None:
        """Once, however often it is said: an id that is there already is the same job."""
        told = {
            "submission_id": id,
            "entrypoint": command,
            "entrypoint_num_cpus": 1,
            "entrypoint_num_gpus": gpus,
            "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), **environment}},
        }
        try:
            self._ask("POST", "/api/jobs/", told)
        except ClusterAway:
            if self.job(id) is None:
                raise

    def job(self, id: str) -> RayJob | None:
        """None: the cluster knows no such job."""
        told = self._ask("GET", f"/api/jobs/{quote(id, safe='')}")
        return None if told is None else RayJob(str(told.get("status")), str(told.get("message") or ""))

    def stop(self, id: str) -> None:
        self._ask("POST", f"/api/jobs/{quote(id, safe='')}/stop", {})

    def said(self, id: str) -> str:
        """The last line that the command wrote."""
        told = self._ask("GET", f"/api/jobs/{quote(id, safe='')}/logs") or {}
        lines = str(told.get("logs") or "").strip().splitlines()
        return short(lines[-1], 200) if lines else ""

    def _ask(self, method: str, path: str, body: Json | None = None) -> Json | None:
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self._token}"} if self._token else {}
        )
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)  # noqa: S310 - http alone
        try:
            with self._open(request, timeout=PATIENCE_S) as reply:
                told = json.loads(reply.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code in (401, 403):
                way = f"set {TOKEN}, or --ray-token FILE, to the cluster's token"
                raise InputError(f"{self.address}: the cluster does not let us in; {way}") from None
            raise ClusterAway(f"{self.address}: the cluster answers {error.code} to {method} {path}") from None
        except (OSError, ValueError) as error:
            raise ClusterAway(f"{self.address}: the cluster does not answer ({short(str(error), 120)})") from None
        return told if isinstance(told, dict) else {}


def token_here() -> str:
    return os.environ.get(TOKEN, "").strip()
