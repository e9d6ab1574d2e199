# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of this machine whose nodes come, freeze and go; what its tests share."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreamlab.core.files import Json
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.manifest import write_manifest

STORE_BYTES = 80 << 20  # the least that Ray takes is 75 MB
PATIENCE_S = 240.0  # of a machine that does six other things
LEASE_S = 3.0
SECRET = "of-this-test-alone"
# A node that does not answer five times in a row is dead, after ten to fifteen seconds: thirty by itself.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 5,
}
SMALL: Json = {
    "stages.0.steps": 20,
    "stages.0.size": 16,
    "stages.0.scene.count": 64,
    "keeping.checkpoint": 5,
    "export.faces": 300,
    "export.texture": 64,
    "export.turntable": 3,
    "export.pictures": "poster",
}


def until(what: Callable[[], Any], said: str) -> Any:
    """What it answers, as soon as that is something."""
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < end, f"not within {PATIENCE_S:g} s: {said}"
        time.sleep(0.05)
    return found


class Batch:
    """A store with a batch in it, and what stands there."""

    def __init__(self, place: Path, *prompts: str, **settings: object) -> None:
        self.url = str(place)
        self.bucket = ObjectStore(self.url)
        self.rows: list[Json] = [
            {"prompt": prompt, "recipe": "oracle", "seed": 1, "settings": SMALL | settings} for prompt in prompts
        ]
        write_manifest(self.bucket, iter(self.rows))

    def told(self, kind: str, row: int, attempt: int | None = None) -> Json | None:
        data = self.bucket.get(f"{kind}/00000/{row:04d}" + (f"/{attempt}" if attempt else ""))
        return None if data is None else json.loads(data)

    def end(self, row: int, attempt: int) -> str:
        return str((self.told("ends", row, attempt) or {}).get("end"))

    def attempt(self, row: int) -> int:
        """The one that counts."""
        done = self.told("done", row)
        assert done is not None, f"job {row} is not done"
        return int(done["attempt"])

    def attempts(self, row: int) -> int:
        return len(self.bucket.names(f"claims/00000/{row:04d}/"))

    def model(self, row: int, attempt: int | None = None) -> bytes | None:
        return self.bucket.get(f"runs/00000/{row:04d}/{attempt or self.attempt(row)}/export/model.glb")

    def holder(self, row: int, attempt: int = 1) -> int:
        """Process that claimed an attempt, as soon as it has."""
        claim = until(lambda: self.told("claims", row, attempt), f"attempt {attempt} of job {row} is claimed")
        return int(str(claim["worker"]).split("-")[-2])


class Camp:
    """The cluster; this process is a driver of it. Nodes of a test are gone after it."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        jobs = bool(find_spec("aiohttp_cors"))  # of `ray[default]`: without it there is no Jobs interface
        head: dict[str, Any] = {
            "num_cpus": 0,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": jobs,
            "_system_config": HEALTH,
        }
        # Its own, where another test process has a cluster, too: jobs are begun by the agent of this node.
        head |= {"dashboard_port": free_port(), "dashboard_agent_listen_port": free_port()}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = str(self.cluster.address)
        self.jobs = f"http://{self.cluster.webui_url}" if jobs else ""
        ray.init(address=self.address, log_to_driver=False, logging_level="error")

    @contextlib.contextmanager
    def nodes(self, *several: dict[str, str], cpus: int = 1, gpus: int = 0) -> Iterator[list[Any]]:
        """As many as environments are given."""
        made = [
            self.cluster.add_node(
                num_cpus=cpus, num_gpus=gpus, object_store_memory=STORE_BYTES, env_vars=environment, wait=False
            )
            for environment in several
        ]
        self.cluster.wait_for_nodes(timeout=PATIENCE_S)
        try:
            yield made
        finally:
            for node in made:
                self.remove(node)

    def remove(self, node: Any) -> None:
        """At once, as when a machine is gone."""
        if node in self.cluster.worker_nodes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(raylet(node), signal.SIGCONT)
            self.cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def state(pid: int) -> str:
    """A letter of the kernel's: T is stopped; none: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


class Hired(threading.Thread):
    """A driver in a thread of this process: `dreamlab batch` without its command line."""

    def __init__(self, batch: Batch, workers: int = 1, lease: float = LEASE_S) -> None:
        super().__init__(daemon=True)
        self.batch, self.workers, self.lease = batch, workers, lease
        self.finished = -1
        self.start()

    def run(self) -> None:
        from dreamlab.jobs.engines import ray as engine

        self.finished = engine.run(self.batch.url, self.workers, 0, self.lease)

    def over(self) -> int:
        self.join(PATIENCE_S)
        assert not self.is_alive(), "the driver does not end"
        return self.finished


def crash(at: str, once: Path | None = None) -> dict[str, str]:
    return {"DREAMLAB_CRASH_AT": at} | ({} if once is None else {"DREAMLAB_CRASH_ONCE": str(once)})
