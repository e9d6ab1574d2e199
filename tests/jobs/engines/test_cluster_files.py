# SPDX-License-Identifier: Apache-2.0
"""The files for KubeRay and SkyPilot start a command that our own command line takes, and say what they must."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

import dreamlab.cli.batch  # noqa: F401 - the command
from dreamlab.cli.app import app
from dreamlab.core.errors import Interrupted

CLUSTERS = Path(__file__).parents[3] / "examples" / "clusters"
COMMAND = re.compile(r"dreamlab batch (?:.*\\\n)*.*")


def read(name: str) -> dict:
    found = yaml.safe_load((CLUSTERS / name).read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def taken(line: str) -> dict[str, object]:
    """What `dreamlab batch` makes of a command line."""
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:2] == ["dreamlab", "batch"]
    group = typer.main.get_command(app)
    return group.commands["batch"].make_context("batch", words[2:]).params  # type: ignore[attr-defined]


def test_a_rayjob_of_kuberay() -> None:
    job = read("kuberay-rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    told = taken(spec["entrypoint"])
    assert (told["engine"], told["address"], told["gpus_per_run"]) == ("ray", "auto", 0.5)
    assert cluster["authOptions"] == {"mode": "token"} and cluster["enableInTreeAutoscaling"] is True
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    room = group["maxReplicas"] * min(int(limits["nvidia.com/gpu"]) / 0.5, int(limits["cpu"]))
    assert told["workers"] == room, "as many workers as the largest cluster holds"
    assert spec["shutdownAfterJobFinishes"] is True and cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_task_of_skypilot() -> None:
    task = read("skypilot.yaml")
    assert set(task) <= {"name", "num_nodes", "resources", "file_mounts", "envs", "setup", "run"}
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [Interrupted("").exit_code]
    (line,) = COMMAND.findall(task["run"])
    told = taken(line)
    assert (told["engine"], told["out"], told["gpus_per_run"]) == ("ray", "$OUT", 0.5)


@pytest.mark.parametrize("name", ["kuberay-rayjob.yaml", "skypilot.yaml"])
def test_no_secret_is_in_them(name: str) -> None:
    assert not re.search(r"(?i)(secret_access_key|token)\s*[:=]\s*\S{8,}", (CLUSTERS / name).read_text("utf-8"))
