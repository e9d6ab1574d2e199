# SPDX-License-Identifier: Apache-2.0
"""This machine: so many worker processes, each replaced when it dies."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from dreamlab.core.errors import Interrupted
from dreamlab.jobs.states import ASKED_TO_STOP

MOST_DEATHS = 5  # of workers in a row without one that ended well
LOOK_S = 0.2


def command(url: str, device: str, lease: float) -> list[str]:
    return [sys.executable, "-m", "dreamlab.jobs.engines.worker", url, "--device", device, "--lease", str(lease)]


def run(url: str, devices: Sequence[str], lease: float) -> None:
    """Until every worker found nothing left to do. Ctrl-C stops them with checkpoints in the store."""
    workers = [subprocess.Popen(command(url, device, lease)) for device in devices]
    deaths = 0
    try:
        while any(worker.poll() is None for worker in workers) or any(w.returncode for w in workers):
            for i, worker in enumerate(workers):
                if worker.poll() in (None, 0):
                    continue
                deaths += 1
                if worker.returncode == ASKED_TO_STOP or deaths > MOST_DEATHS * len(devices):
                    raise Interrupted(f"a worker left with exit code {worker.returncode}; the same command goes on")
                workers[i] = subprocess.Popen(command(url, devices[i], lease))
            time.sleep(LOOK_S)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
