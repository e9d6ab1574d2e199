# SPDX-License-Identifier: Apache-2.0
"""How processes that were started together find each other: torchrun, or anything that sets the same variables (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). What they say before the first step goes through torch's store.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dreamlab.core.errors import DreamError, InputError, RankLost

if TYPE_CHECKING:
    from torch.distributed import Store

    from dreamlab.run.folder import Run
    from dreamlab.run.ranks import Alone

# That a rank has for one step, a checkpoint or a model's loading, before it counts as lost.
PATIENCE = timedelta(minutes=10)
HEARING = 30.0  # seconds that the first process stays so that the others hear why nothing is made
STARTED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class RankSeat:
    """What a launcher tells a process of its place."""

    rank: int
    count: int
    local: int  # among those of this machine
    beside: int  # how many those are
    host: str
    port: int
    attempt: int  # how often the launcher has started all of them anew
    kept: bool  # whether the launcher holds the store, and so remembers what an earlier attempt said

    @classmethod
    def taken(cls) -> RankSeat | None:
        """This process' own; none where it was started alone."""
        said = os.environ
        if not all(name in said for name in STARTED) or said["WORLD_SIZE"] == "1":
            return None
        try:
            rank, count, port = (int(said[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
            local, beside = int(said.get("LOCAL_RANK", 0)), int(said.get("LOCAL_WORLD_SIZE", 1))
            attempt = int(said.get("TORCHELASTIC_RESTART_COUNT", 0))
        except ValueError:
            told = ", ".join(f"{name}={said[name]!r}" for name in STARTED)
            raise InputError(f"{told}: no launcher says that; unset them, or start with torchrun") from None
        kept = said.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return cls(rank, count, local, beside, said["MASTER_ADDR"], port, attempt, kept)


class Joined:
    """Where the processes of a run sit before its first step; alone, nobody else does."""

    def __init__(self, ranks: Alone, device: str, store: Store | None = None, seat: RankSeat | None = None) -> None:
        self.ranks, self.device, self._store, self._seat = ranks, device, store, seat

    def run(self, make: Callable[[int], Run]) -> Run:
        """The run that the first of them makes, told how many they are; after a restart the one that is there."""
        from dreamlab.run.folder import Run

        if self._store is None or self._seat is None:
            return make(1)
        place = f"run {self._seat.attempt}"
        if self._seat.rank:
            said = json.loads(self._heard(place))
            if "error" in said:
                self._store.add(f"{place} heard", 1)
                raise NotMade(said["code"])
            return Run.open(Path(said["run"]))
        try:
            made = Run.open(Path(self._heard("run"))) if self._store.check(["run"]) else make(self._seat.count)
        except DreamError as error:
            self._store.set(place, json.dumps({"error": str(error), "code": error.exit_code}))
            self._wait_until_heard(place)
            raise
        where = str(made.path.absolute())
        self._store.set("run", where)
        self._store.set(place, json.dumps({"run": where}))
        return made

    def _wait_until_heard(self, place: str) -> None:
        """The store ends with the process that serves it, and with it what others have not read yet."""
        assert self._store is not None and self._seat is not None
        until = time.monotonic() + HEARING
        while self._store.add(f"{place} heard", 0) < self._seat.count - 1 and time.monotonic() < until:
            time.sleep(0.05)

    def _heard(self, name: str) -> str:
        assert self._store is not None
        try:
            return bytes(self._store.get(name)).decode()
        except RuntimeError:
            raise RankLost("the first process of this run has not said which run it is; see what it printed") from None


class NotMade(DreamError):
    """The first process has said why nothing is made; the others say nothing."""

    def __init__(self, code: int) -> None:
        super().__init__("")
        self.exit_code = code


@contextmanager
def joined(device: str) -> Iterator[Joined]:
    """With all processes that were started together, each on a device of its own where there are enough."""
    seat = RankSeat.taken()
    if seat is None:
        from dreamlab.run.ranks import ALONE

        yield Joined(ALONE, device)
        return
    import torch
    import torch.distributed as dist

    from dreamlab.run.ranks import Ranks

    sharing = device == "cpu" or seat.beside > torch.cuda.device_count()
    if device == "cuda":
        device = f"cuda:{seat.local % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    try:
        serves = seat.rank == 0 and not seat.kept
        store = dist.TCPStore(seat.host, seat.port, is_master=serves, timeout=PATIENCE, wait_for_workers=False)
        # NCCL takes one process per device; what is told on the host goes by gloo anyway.
        dist.init_process_group(
            "gloo" if sharing else "cpu:gloo,cuda:nccl",
            store=dist.PrefixStore(f"attempt {seat.attempt}", store),
            rank=seat.rank,
            world_size=seat.count,
            timeout=PATIENCE,
        )
    except RuntimeError as error:
        said = " ".join(str(error).split())[:160]
        raise RankLost(f"rank {seat.rank} of {seat.count}: the others were not found ({said})") from None
    if seat.rank:
        warnings.simplefilter("ignore")  # the first says it
    yield Joined(Ranks(seat.rank, seat.count), device, dist.PrefixStore("dreamlab", store), seat)
    dist.destroy_process_group()  # not after an error: others may be waiting, or gone
