# SPDX-License-Identifier: Apache-2.0
"""`python -m dreamlab.jobs.engines.worker URL`: one worker of a batch, whoever started it. Exit 0: nothing is left to
do; 75: it was asked to leave, and what it held goes on from its checkpoint elsewhere."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from dreamlab.core.allocator import keep_memory
from dreamlab.core.errors import DreamError
from dreamlab.core.threads import watch
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.ledger import BEAT_S, LEASE_S, Ledger
from dreamlab.jobs.engines.manifest import read_manifest
from dreamlab.jobs.engines.pull import serve
from dreamlab.jobs.states import ASKED_TO_STOP

LEAVING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # Slurm sends SIGUSR1 before the time is over


def work(
    url: str, device: str = "cpu", lease: float = LEASE_S, stop: threading.Event | None = None, seen: bool = False
) -> int:
    """Pull until nothing is open; how many jobs this worker finished. `seen`: somebody looks on."""
    from dreamlab.jobs.engines.runner import Runner

    bucket = ObjectStore(url)
    tasks = read_manifest(bucket)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    ledger = Ledger(bucket, name, time.monotonic, lease)
    with tempfile.TemporaryDirectory(prefix="dreamlab-") as place:
        runner = Runner(bucket, Path(place), device, live=seen)
        return serve(ledger, tasks, runner, stop or threading.Event(), min(BEAT_S, lease / 3), runner.holds)


def live(url: str, device: str, lease: float, seen: bool = False) -> int:
    """A process that is a worker and nothing else; its exit code."""
    stop = threading.Event()
    for number in LEAVING:
        signal.signal(number, lambda number, frame: stop.set())
    keep_memory()
    watch()
    try:
        print(f"finished {work(url, device, lease, stop, seen)}", flush=True)
    except DreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return ASKED_TO_STOP if stop.is_set() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lease", type=float, default=LEASE_S)
    parser.add_argument("--live", action="store_true", help="tell the store all the time how a run stands")
    told = parser.parse_args()
    sys.exit(live(told.url, told.device, told.lease, told.live))


if __name__ == "__main__":
    main()
