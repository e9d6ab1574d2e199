# SPDX-License-Identifier: Apache-2.0
"""`dreamlab jobs` as its users meet it, with no server anywhere; what it did is read back from the queue itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreamlab.cli import app
from dreamlab.core.errors import DreamError
from dreamlab.jobs.queue import Queue
from tests.conftest import Commands, Finished

PROMPT = "a red mushroom: # \U0001f344 `;"


def one_line(ended: Finished, code: int) -> str:
    lines = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert ended.code == code and len(lines) == 1 and "Traceback" not in ended.err, ended.err
    return lines[0]


class Here:
    """Commands in this process: a tenth of the time; what `main` makes of errors has its tests elsewhere."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.folder, self.captured = folder, captured

    def __call__(self, *words: str) -> Finished:
        self.captured.readouterr()
        try:
            app(args=list(words), standalone_mode=False)
        except DreamError as error:
            return Finished(error.exit_code, self.captured.readouterr().out, f"error: {error}")
        return Finished(0, *self.captured.readouterr())


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """A queue of four that wait."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.txt").write_text(PROMPT)
    here = Here(tmp_path, capsys)
    ended = here("jobs", "add", "--prompt-file", "prompt.txt", "steps=2", "--recipe", "oracle", "--count", "4")
    assert ended.code == 0 and len(ended.out.split()) == 4, ended.err
    return here


def ids(dreamlab: Here | Commands) -> list[str]:
    return [line.split()[0] for line in dreamlab("jobs", "ls").out.splitlines()]


def queue_of(dreamlab: Here) -> Queue:
    return Queue(dreamlab.folder / "runs")


def test_a_folder_without_a_queue_is_left_without_one(dreamlab: Commands) -> None:
    for words in (("ls",), ("prune",)):
        assert "has no queue yet" in one_line(dreamlab("jobs", *words), 3)
    assert not (dreamlab.folder / "runs").exists()


def test_lists_tell_the_order_and_show_tells_all(jobs: Here) -> None:
    listed = jobs("jobs", "ls").out.splitlines()
    assert [line.split("  ")[-1] for line in listed] == [f"{i} in the line" for i in (1, 2, 3, 4)]
    first = ids(jobs)[0]
    shown = jobs("jobs", "show", first).out
    assert PROMPT in shown and "submitted: queued, attempt 0" in shown and "step     0 of 2" in shown
    plain = json.loads(jobs("jobs", "ls", "--json").out)
    assert [each["id"] for each in plain] == ids(jobs) and plain[0]["prompt"] == PROMPT
    assert json.loads(jobs("jobs", "show", first, "--json").out)["position"] == 1
    assert jobs("jobs", "ls", "--state", "failed").out == "" and jobs("jobs", "ls", "--text", "cup").out == ""
    assert len(jobs("jobs", "ls", "--text", "RED mush").out.splitlines()) == 4
    assert "is none of queued" in one_line(jobs("jobs", "ls", "--state", "fialed"), 3)


def test_move_cancel_and_retry(jobs: Here) -> None:
    a, b, c, d = ids(jobs)
    assert jobs("jobs", "move", d, "--before", a).out.strip() == f"{d}: 1 in the line"
    assert ids(jobs) == [d, a, b, c]
    assert jobs("jobs", "move", d, "--lane", "background").code == 0 and ids(jobs) == [a, b, c, d]
    assert jobs("jobs", "move", c, "--priority", "5").code == 0 and ids(jobs) == [c, a, b, d]
    assert "before or after" in one_line(jobs("jobs", "move", c, "--before", a, "--after", b), 3)
    assert jobs("jobs", "cancel", a, b).out.splitlines() == [f"{a}: cancelled", f"{b}: cancelled"]
    assert "only one that waits" in one_line(jobs("jobs", "move", a, "--before", c), 3)
    assert jobs("jobs", "retry", a).out.strip().startswith(f"{a}: queued")
    assert "nothing to retry" in one_line(jobs("jobs", "retry", c), 3)
    assert "there is none" in one_line(jobs("jobs", "cancel", "nobody"), 3)


def test_pause_and_resume_are_heard_by_others(jobs: Here) -> None:
    assert jobs("jobs", "pause").code == 0
    with queue_of(jobs) as queue:
        assert queue.paused and queue.claim(1, "cpu") is None
    assert "is paused" in jobs("jobs", "ls").out and jobs("jobs", "resume").code == 0
    with queue_of(jobs) as queue:
        assert queue.claim(1, "cpu") is not None


def test_the_trash_and_what_is_kept(jobs: Here) -> None:
    a, *_ = ids(jobs)
    assert jobs("jobs", "rm", a).code == 0 and a not in ids(jobs)
    assert [line.split()[0] for line in jobs("jobs", "ls", "--trash").out.splitlines()] == [a]
    assert jobs("jobs", "restore", a).out.strip() == f"{a}: cancelled"
    assert jobs("jobs", "rm", a).code == 0
    said = jobs("jobs", "prune", "--trash-days", "0").out
    assert said.splitlines()[0].startswith(f"{a}  purge") and "do it with --apply" in said
    assert a in jobs("jobs", "ls", "--trash").out, "said, not done"
    assert "removed: 1 jobs" in jobs("jobs", "prune", "--trash-days", "0", "--apply").out
    assert jobs("jobs", "ls", "--trash").out == "" and "there is none" in one_line(jobs("jobs", "show", a), 3)


def test_one_that_runs_is_asked_and_not_removed(jobs: Here, dreamlab: Commands) -> None:
    with queue_of(jobs) as queue:
        job = queue.claim(1, "cpu")
        assert job is not None
        folder = queue.root / job.run
        (folder / "log.txt").write_text("2026 started \U0001f344\n")
        assert jobs("jobs", "logs", job.id).out == "2026 started \U0001f344\n"
        assert "is running; cancel it first" in one_line(jobs("jobs", "rm", job.id), 3)
        assert f"{job.id}  running" in jobs("jobs", "ls").out.splitlines()[0]
        assert jobs("jobs", "cancel", job.id, "--keep").out.strip() == f"{job.id}: asked to stop"
        assert queue.job(job.id).cancel == "keep"
        process, out, _ = dreamlab.start("jobs", "logs", "-f", job.id, "--root", str(queue.root))
        process.join(3)
        assert process.is_alive(), "it follows for as long as the job runs"
        with (folder / "log.txt").open("a") as log:
            log.write("stopped\n")
        queue.finish(job.id, job.attempt, 7)
        process.join(60)
        assert process.exitcode == 0 and out.read_text().endswith("\U0001f344\nstopped\n")
    shown = jobs("jobs", "show", job.id).out
    assert "error    the disk is full" in shown and "finished: interrupted, attempt 1" in shown


def test_what_cannot_be_added_is_one_line(dreamlab: Commands) -> None:
    assert "needs a prompt" in one_line(dreamlab("jobs", "add"), 2)
    assert "single character" in one_line(dreamlab("jobs", "add", "x"), 2)
    assert "florbl" in one_line(dreamlab("jobs", "add", "a florbl glumph"), 3)
    assert "lane" in one_line(dreamlab("jobs", "add", "a red cup", "--lane", "fast"), 2)
    assert Path(dreamlab.folder, "runs").is_dir() and dreamlab("jobs", "ls").out == ""


def test_the_same_key_is_the_same_job(dreamlab: Commands) -> None:
    made = [dreamlab("jobs", "add", "a red mushroom", "--recipe", "oracle", "--key", "k").out for _ in range(2)]
    assert made[0] == made[1] and len(ids(dreamlab)) == 1
