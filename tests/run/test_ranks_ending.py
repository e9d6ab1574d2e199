# SPDX-License-Identifier: Apache-2.0
"""How a run of several processes ends: asked to stop, one of them killed, refused before it begins, begun anew."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from time import sleep

import pytest
from torch.distributed import HashStore

from dreamlab.core.errors import InputError
from dreamlab.run.checkpoint import committed
from dreamlab.run.folder import Run
from dreamlab.run.joining import Joined, NotMade, RankSeat
from dreamlab.run.ranks import Ranks
from tests.conftest import Commands
from tests.run.test_resume import wait_for_events

PROMPT = "a red mushroom with a white stem"
SHORT = """
prompt: a red mushroom
stages:
  - name: shape
    scene: {kind: gaussians, count: 48, radius: 0.5}
    terms: [{guidance: {kind: oracle, others: 1}, system: {kind: sds, cfg: 1.5}}]
    steps: 400
    views: 2
    size: 12
export: {resolution: 24, texture: 0, fit: false, pictures: []}
keeping: {checkpoint: 10, keep: 2, preview: 400, log: 5}
"""


@pytest.fixture
def short(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(SHORT)
    return path


class Processes:
    """A command in processes that find each other as torchrun's do."""

    def __init__(self, dreamlab: Commands, count: int, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.processes: list[BaseProcess] = []
        self.errors: list[Path] = []
        for rank in range(count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            process, _, err = dreamlab.start(*arguments, **place, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            self.processes.append(process)
            self.errors.append(err)

    def ended(self) -> list[int | None]:
        for process in self.processes:
            process.join(240)
        return [process.exitcode for process in self.processes]

    def kill(self, rank: int, number: int) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def lines(self, rank: int) -> list[str]:
        """What a rank said that is no progress."""
        said = self.errors[rank].read_text().replace("\r", "\n").splitlines()
        return [line for line in said if "gone" in line or line.startswith("error") or "Traceback" in line]


def checkpoints(folder: Path) -> int:
    (run,) = folder.iterdir()
    return sum(event["kind"] == "checkpoint" for event in Run(run).events())


def test_a_signal_to_any_process_stops_all_with_a_checkpoint(dreamlab: Commands, short: Path) -> None:
    out = dreamlab.folder / "runs"
    both = Processes(dreamlab, 2, "dream", PROMPT, "--recipe", str(short), "--out", str(out))
    wait_for_events(out, "checkpoint", 1)
    both.kill(1, signal.SIGTERM)
    assert both.ended() == [75, 75]
    (path,) = out.iterdir()
    state = Run(path).state()
    assert state["state"] == "interrupted"
    assert committed(path / "ckpt")[-1].name == f"step_{state['step']:06d}"
    assert both.lines(0) == both.lines(1) == []


def test_where_one_is_killed_the_others_end_and_the_run_goes_on(dreamlab: Commands, short: Path) -> None:
    """First one that writes nothing, then the one that writes; at last one process finishes alone."""
    out = dreamlab.folder / "runs"
    both = Processes(dreamlab, 2, "dream", PROMPT, "--recipe", str(short), "--out", str(out))
    wait_for_events(out, "checkpoint", 1)
    both.kill(1, signal.SIGKILL)
    assert both.ended() == [75, -signal.SIGKILL]
    (path,) = out.iterdir()
    (line,) = both.lines(0)
    assert line.startswith("rank 0 of 2: another process of this run is gone") and f"resume {path}" in line
    assert Run(path).state()["state"] == "interrupted"

    made = checkpoints(out)
    both = Processes(dreamlab, 2, "resume", str(path))
    wait_for_events(out, "checkpoint", made + 1)
    both.kill(0, signal.SIGKILL)
    assert both.ended() == [-signal.SIGKILL, 75]
    (line,) = both.lines(1)
    assert line.startswith("rank 1 of 2: another process of this run is gone")

    ended = dreamlab("resume", str(path))
    assert ended.code == 0, ended.err
    assert Run(path).state()["state"] == "succeeded" and (path / "export" / "model.glb").is_file()


def test_more_processes_than_views_are_refused_by_one_of_them(dreamlab: Commands, short: Path) -> None:
    out = dreamlab.folder / "runs"
    three = Processes(dreamlab, 3, "dream", PROMPT, "--recipe", str(short), "--out", str(out))
    assert three.ended() == [2, 2, 2]
    assert [three.errors[rank].read_text() for rank in (1, 2)] == ["", ""]
    (line,) = three.lines(0)
    assert "2 views, which 3 processes cannot share" in line and "views=3" in line
    assert not out.exists()


def test_the_first_process_stays_until_the_others_have_heard_why_nothing_is_made() -> None:
    """Its end takes the store with it. Here the others are threads, and slow."""
    store = HashStore()
    heard: list[int] = []

    def other(rank: int) -> None:
        sleep(0.3 * rank)
        with pytest.raises(NotMade) as refused:
            Joined(Ranks(rank, 3), "cpu", store, seat(rank)).run(lambda _: pytest.fail("the first makes the run"))
        heard.append(refused.value.exit_code)

    def seat(rank: int) -> RankSeat:
        return RankSeat(rank, 3, rank, 3, "127.0.0.1", 0, 0, False)

    def refuse(count: int) -> Run:
        raise InputError(f"nothing for {count}")

    others = [Thread(target=other, args=(rank,)) for rank in (1, 2)]
    for thread in others:
        thread.start()
    with pytest.raises(InputError, match="nothing for 3"):
        Joined(Ranks(0, 3), "cpu", store, seat(0)).run(refuse)
    told = store.add("run 0 heard", 0)
    for thread in others:
        thread.join()
    assert told == 2 and heard == [InputError.exit_code] * 2


def test_torchrun_begins_all_anew_from_the_last_checkpoint(dreamlab: Commands, short: Path) -> None:
    """The one that writes dies at its first checkpoint; the second attempt finds the run that the first has made."""
    begun = dreamlab.folder / "begun.py"
    begun.write_text(
        "import os, sys\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    os.environ['DREAMLAB_CRASH_AT'] = 'ckpt.after_rename:1'\n"
        "from dreamlab.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    out = dreamlab.folder / "runs"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    words = [str(begun), "dream", PROMPT, "steps=12", "--recipe", str(short), "--out", str(out)]
    ended = subprocess.run([sys.executable, *launch, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (path,) = out.iterdir()
    kinds = [event["kind"] for event in Run(path).events()]
    assert kinds.count("start") == 2 and kinds.count("finished") == 1
    # The checkpoint that was the last to be written before the end is not made again: its event alone was lost.
    assert [event["path"] for event in Run(path).events() if event["kind"] == "checkpoint"] == ["step_000012"]
    assert ended.stdout.splitlines()[-1] == str(path)
