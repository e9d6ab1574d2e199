# SPDX-License-Identifier: Apache-2.0
"""Slurm, by submitit: an array of workers. Some time before its limit Slurm says so; a worker then leaves its
checkpoint in the store, ends with 75 and is queued again. One that a signal killed is queued again as well."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dreamlab.core.errors import InputError, Interrupted
from dreamlab.jobs.states import ASKED_TO_STOP

NOTICE_S = 120  # before the limit, for the last checkpoint and its way to the store
LOOK_S = 5.0
MOST_RESTARTS = 20  # of one worker that dies; being asked to leave counts too, but never ends it
# Slurm 22.05 and newer give a step one core where nothing else is said.
BEFORE = ("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",)
AFTER = (
    "code=$?",
    f"[ $code -gt 128 ] && [ ${{SLURM_RESTART_COUNT:-0}} -lt {MOST_RESTARTS} ] && again=yes",
    f'[ $code = {ASKED_TO_STOP} ] || [ -n "$again" ] && scontrol requeue $SLURM_JOB_ID',
    "exit $code",
)


def pulling(url: str, device: str, lease: float) -> int:
    """One worker on its node. Its signals are its own, not submitit's, whose handler ends the process in the middle of
    a step; a code that is not 0 leaves no result behind, so that the same call can be made again."""
    from dreamlab.jobs.engines.worker import live

    code = live(url, device, lease)
    if code:
        sys.exit(code)
    return code


def submit(url: str, workers: int, gpus: float, lease: float, minutes: int, partition: str, logs: Path) -> str:
    """An array of so many workers; the name that squeue and scancel know it by."""
    try:
        import submitit
    except ModuleNotFoundError:
        raise InputError("--engine slurm needs submitit: pip install 'dreamlab[clusters]'") from None
    if shutil.which("sbatch") is None:
        raise InputError("--engine slurm: there is no sbatch here; call it where Slurm's commands are")
    if gpus != int(gpus):
        raise InputError(f"--gpus-per-run {gpus:g}: Slurm gives whole GPUs; Ray shares them")
    name = f"dreamlab-{secrets.token_hex(4)}"
    executor = submitit.SlurmExecutor(folder=logs)
    own = {"signal": f"USR1@{min(NOTICE_S, 30 * minutes)}", "requeue": True}
    executor.update_parameters(
        job_name=name,
        time=minutes,
        cpus_per_task=2,
        array_parallelism=workers,
        setup=list(BEFORE),
        teardown=list(AFTER),
        additional_parameters=own,
        **({"gpus_per_node": int(gpus)} if gpus else {}),
        **({"partition": partition} if partition else {}),
    )
    try:
        with executor.batch():
            for _ in range(workers):
                executor.submit(pulling, url, "cuda" if gpus else "cpu", lease)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise InputError(f"--engine slurm: Slurm took no job: {' '.join(str(error).split())[:300]}") from None
    return name


def run(url: str, workers: int, gpus: float, lease: float, minutes: int, partition: str, logs: Path) -> None:
    """Submit, and wait until Slurm has none of it any more. Ctrl-C leaves the workers to Slurm."""
    name = submit(url, workers, gpus, lease, minutes, partition, logs)
    print(f"{workers} workers are queued as {name}; their words: {logs}", file=sys.stderr)
    try:
        while states(name):
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        raise Interrupted(
            f"the workers stay with Slurm: scancel --name {name} ends them, batch status {url} says how it stands", 130
        ) from None


def states(name: str) -> Sequence[str]:
    """Of its workers that Slurm still has; empty: it is over. Of a controller that does not answer nothing follows."""
    asked = ["squeue", "--noheader", "--array", f"--name={name}", "--format=%T"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    return ["UNKNOWN"] if told.returncode else told.stdout.split()
