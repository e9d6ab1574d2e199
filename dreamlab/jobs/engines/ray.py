# SPDX-License-Identifier: Apache-2.0
"""Ray: every worker is one long task of a cluster that is there or begins here; Ray keeps them alive and places them.

Its driver holds no jobs, only workers: a million prompts are as many references as ten. Tasks fate-share with the
driver, so a driver that died is started again, and the store says what is left. Tasks that wait for room are what an
autoscaler goes by: nothing else is asked of it.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dreamlab.core.errors import DiskError, DreamError, InputError, Interrupted
from dreamlab.core.text import short
from dreamlab.core.threads import cores
from dreamlab.jobs.engines.bucket import ObjectStore
from dreamlab.jobs.engines.report import standing
from dreamlab.jobs.states import ASKED_TO_STOP

RETRIES = 10  # of a worker whose process or node died; its jobs have limits of their own
GRACE_S = 60.0  # for workers to leave their checkpoints when the driver is told to stop
LEAST_S, LOOK_S = 10.0, 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _task(url: str, device: str, lease: float) -> int:
    """A worker, in a process of Ray's. `ray.cancel` comes as SIGINT, a node that is taken away says SIGTERM: either
    way what is at hand goes to the store, and whoever comes next goes on."""
    from dreamlab.jobs.engines.worker import work

    stop = threading.Event()
    with heard(lambda number: stop.set()):
        return work(url, device, lease, stop)


def asked(gpus: float) -> dict[str, Any]:
    """What Ray is to keep for a worker, and what it does when one is lost. With a fraction of a GPU, as many workers as
    fit see the same one."""
    return {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}


def run(url: str, workers: int, gpus: float, lease: float, address: str = "") -> int:
    """Until every worker found nothing left to do; how many jobs they finished. `gpus`: of each, a fraction where
    several share one. `address`: of a cluster that is there (`auto`: this machine's); none: one of this process."""
    url = url if "://" in url else str(Path(url).absolute())  # workers have folders of their own
    authenticate(address)
    with cluster(address, workers, gpus) as ray:
        pulling = ray.remote(_task).options(name="dreamlab batch worker", **asked(gpus))
        bucket, device = ObjectStore(url), "cuda" if gpus else "cpu"
        return attended(lambda: pulling.remote(url, device, lease), workers, lease, lambda: not standing(bucket).open)


@contextmanager
def cluster(address: str, workers: int, gpus: float) -> Iterator[Any]:
    """The one that this process is part of, or joins or begins for a while."""
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("--engine ray needs Ray: pip install 'dreamlab[clusters]'") from None
    began = not ray.is_initialized()
    if began:
        join(address, workers, gpus)
    try:
        yield ray
    finally:
        if began:
            ray.shutdown()


def authenticate(address: str) -> None:
    """Ray reads this when it is imported. A cluster that begins here has a token that nobody else knows; to one that is
    there we go with a token if there is one."""
    there = os.environ.get("RAY_AUTH_TOKEN_PATH") or (Path.home() / ".ray" / "auth_token").is_file()
    if not address and not there:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if not address or there or os.environ.get("RAY_AUTH_TOKEN"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def join(address: str, workers: int, gpus: float) -> None:
    """A cluster by its address, or one of this process, on this machine alone."""
    import ray

    quiet = {"log_to_driver": False, "logging_level": "error"}
    if not address:
        os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # for ever otherwise
        # local: of its own, also where some other cluster of this machine is there
        here = {"address": "local", "num_cpus": max(len(cores()), workers), "include_dashboard": False}
        try:
            ray.init(**here, _node_ip_address="127.0.0.1", **quiet)
        except Exception as error:  # as Ray raises it, of no class of its own
            said = short(" ".join(str(error).split()), 160)
            raise Interrupted(f"Ray does not start here ({said}); on a busy machine try again") from None
    else:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            said = short(" ".join(str(error).split()), 160)
            way = "is it running, and is RAY_AUTH_TOKEN (or ~/.ray/auth_token) its token?"
            raise InputError(f"--address {address}: this cluster cannot be joined; {way} ({said})") from None
    there = ray.cluster_resources()
    if gpus > there.get("GPU", 0):
        print(
            f"no GPU in this cluster gives {gpus:g} now; waiting for a node that does (--gpus-per-run)",
            file=sys.stderr,
        )


def attended(hire: Callable[[], Any], workers: int, lease: float, over: Callable[[], bool]) -> int:
    """Wait for all workers; who was sent away while jobs are open is replaced. Once nothing is open the others find so
    within a lease: who does not is frozen with its node, which Ray itself may take minutes to see, and is not waited
    for. On a signal all are asked to leave, and given time for it."""
    import ray

    waiting, hired, finished = [hire() for _ in range(workers)], workers, 0
    until, lost, signals = float("inf"), list[str](), list[int]()
    with heard(signals.append):
        while waiting and not signals and time.monotonic() < until:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_S)
            for ref in ready:
                try:
                    finished += ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, DiskError):  # of its node; others have room
                        lost.append(short(str(error.cause), 160))
                    elif isinstance(error.cause, DreamError):
                        raise error.cause from None
                    else:
                        raise
                except ray.exceptions.RayError as error:  # its process or node died too often
                    lost.append(short(" ".join(str(error).split()), 160))
            if ready and until == float("inf"):
                if over():
                    until = time.monotonic() + max(lease, LEAST_S)
                elif hired < workers + RETRIES:
                    waiting, hired = [*waiting, hire()], hired + 1
        _leave(waiting, GRACE_S if signals else 0.0)
    if signals:
        code = 130 if signals[0] == signal.SIGINT else ASKED_TO_STOP
        raise Interrupted("stopped; what was at hand is in the store, and the same command goes on", code)
    if waiting:
        print(f"{len(waiting)} workers do not answer; the batch is done without them", file=sys.stderr)
    elif lost and until == float("inf"):
        raise Interrupted(f"Ray gave up {len(lost)} workers ({lost[0]}); the same command goes on")
    return finished


def _leave(waiting: Sequence[Any], grace: float) -> None:
    import ray

    for ref in waiting:
        ray.cancel(ref, force=False)
    until = time.monotonic() + grace
    left = list(waiting)
    while left and time.monotonic() < until:
        _, left = ray.wait(left, num_returns=len(left), timeout=LOOK_S)


@contextmanager
def heard(tell: Callable[[int], object]) -> Iterator[None]:
    """SIGINT and SIGTERM are told instead of raised, where this is the main thread."""

    def handle(number: int, frame: FrameType | None) -> None:
        tell(number)

    main = threading.current_thread() is threading.main_thread()
    former = {number: signal.signal(number, handle) for number in SIGNALS if main}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
