# SPDX-License-Identifier: Apache-2.0
"""A Slurm of one node in a folder: munged, slurmctld and slurmd as processes of this test, with a key, a configuration
and ports of their own; nothing of the machine's own Slurm is touched, and nothing is left."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CPUS = 8  # as Slurm is told: workers wait for no core of this machine

# cred_expire: a job that is queued again waits as long as its old credentials hold, two minutes by default.
CONFIGURATION = """
ClusterName=dreamlab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={place}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,builtin_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def absent() -> str:
    """Why there can be none here; empty: there can."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    missing = [program for program in NEEDED if shutil.which(program, path=path) is None]
    if missing:
        return f"Slurm is not installed (slurm-wlm, munge): no {missing[0]}"
    return "" if os.geteuid() == 0 else "Slurm's controller and node need root to start jobs"


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class SlurmNode:
    """As a context: up inside, gone after."""

    def __init__(self, place: Path) -> None:
        self.place, self.conf, self.running = place, place / "slurm.conf", list[subprocess.Popen[bytes]]()

    @property
    def environment(self) -> dict[str, str]:
        path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
        return os.environ | {"SLURM_CONF": str(self.conf), "PATH": path}

    def __enter__(self) -> SlurmNode:
        for name in ("state", "spool"):
            (self.place / name).mkdir()
        key = self.place / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        ctld, slurmd = free_ports(2)
        told = {"host": socket.gethostname(), "ctld": ctld, "slurmd": slurmd, "place": self.place, "cpus": CPUS}
        self.conf.write_text(CONFIGURATION.format(**told))
        try:
            files = {"socket": "munge.sock", "key-file": key.name, "pid-file": "munge.pid", "seed-file": "munge.seed"}
            self._start("munged", "--foreground", "--force", *(f"--{o}={self.place / n}" for o, n in files.items()))
            self._until("munge", "--socket", str(self.place / "munge.sock"), "--no-input")
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D")
            self._until("srun", "--time=1", "true")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.asked("scancel", "--user=root", "--signal=KILL")
        for process in reversed(self.running):
            process.terminate()
        for process in reversed(self.running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def asked(self, *command: str) -> str:
        """What a command of Slurm answers."""
        told = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return told.stdout.strip()

    def states(self) -> Sequence[str]:
        return self.asked("squeue", "--noheader", "--array", "--format=%T").split()

    def _start(self, *command: str) -> None:
        log = (self.place / f"{command[0]}.log").open("wb")
        self.running.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT))

    def _until(self, *command: str) -> None:
        """It works."""
        until = time.monotonic() + 60
        while True:
            try:
                told = subprocess.run(
                    command, env=self.environment, capture_output=True, text=True, timeout=20, check=False
                )
                if told.returncode == 0:
                    return
                said = told.stderr
            except subprocess.TimeoutExpired:
                said = "no answer"
            logs = [path.read_text()[-800:] for path in self.place.glob("*.log")]
            assert time.monotonic() < until, f"{command[0]} does not work: {said}\n" + "\n".join(logs)
            time.sleep(0.2)
