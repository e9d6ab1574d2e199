# SPDX-License-Identifier: Apache-2.0
"""What is shown of a job while its run writes: from the tail of the events, from reports, never from a guess."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dreamlab.export.report import record
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.standing import TAIL, Standing, newest_preview, outline, standing, tail_events
from dreamlab.jobs.states import Job
from dreamlab.jobs.views import JobView, job_view, job_views

RECIPE = """prompt: a red cup
negative: a blue one
stages:
- {name: shape, steps: 100}
- {name: finer, steps: 50}
"""
CONTRACT = """id kind state stage step total progress it_per_s eta_s position attempt owner lane
priority prompt negative recipe seed values batch parent request settings retried_from run folder created started
finished stopped_at error favourite seq preview live artifacts links"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path) as opened:
        yield opened


def folder(queue: Queue, id: str = "abcdefghijkl") -> Path:
    """A job that runs, and its folder."""
    path = queue.root / f"a-cup-{id}"
    (path / "previews").mkdir(parents=True)
    (path / "recipe.yaml").write_text(RECIPE)
    queue.submit(Job(id, "dream", run=path.name, prompt="a red cup"))
    assert queue.claim(1, "cpu") is not None
    return path


def say(path: Path, *events: dict[str, object]) -> None:
    with (path / "events.jsonl").open("a") as handle:
        handle.writelines(json.dumps({"time": "t"} | event) + "\n" for event in events)


def metrics(step: int, seconds: float, stage: str = "shape") -> dict[str, object]:
    return {"kind": "metrics", "stage": stage, "global_step": step, "seconds": seconds, "loss": 1.0}


def view(queue: Queue, id: str = "abcdefghijkl") -> JobView:
    return job_view(queue, queue.job(id))


def test_the_keys_are_those_of_the_interface(queue: Queue) -> None:
    folder(queue)
    plain = view(queue).plain()
    assert set(plain) == set(CONTRACT.split()) and json.loads(json.dumps(plain)) == plain
    assert set(plain["links"]) == {"self", "run", "events", "log", "metrics"}


def test_progress_speed_and_time_left(queue: Queue) -> None:
    path = folder(queue)
    assert (view(queue).step, view(queue).total, view(queue).it_per_s, view(queue).eta_s) == (0, 150, None, None)
    say(path, {"kind": "start"}, *(metrics(10 * i, 2.0 * i) for i in range(1, 7)))
    now = view(queue)
    assert (now.stage, now.step, now.progress, now.negative) == ("shape", 60, 0.4, "a blue one")
    assert now.it_per_s == 5.0 and now.eta_s == 18.0
    say(path, metrics(110, 1.0, "finer"))
    assert view(queue).it_per_s is None, "one reading of a stage is no speed"
    say(path, metrics(120, 3.0, "finer"))
    assert (view(queue).stage, view(queue).it_per_s, view(queue).eta_s) == ("finer", 5.0, 6.0)


def test_another_attempt_is_not_measured_with_the_one_before(queue: Queue) -> None:
    path = folder(queue)
    say(path, {"kind": "start"}, metrics(50, 10.0), metrics(60, 12.0), {"kind": "start"})
    (path / "state.json").write_text(json.dumps({"step": 40}))
    assert (view(queue).step, view(queue).it_per_s) == (40, None), "where it went on from"
    say(path, metrics(50, 1.0))
    assert view(queue).step == 50


def test_half_a_line_and_lines_of_nobody(queue: Queue) -> None:
    path = folder(queue)
    say(path, metrics(10, 1.0))
    with (path / "events.jsonl").open("ab") as handle:
        handle.write(b'[]\n"x"\nnull\n\xff\xfe\n' + b"[" * 5000 + b'\n{"kind": "metrics"}\n{"kind": "metrics", "global')
    assert view(queue).step == 10


def test_of_a_hundred_megabytes_only_the_tail_is_read(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(queue)
    with (path / "events.jsonl").open("wb") as handle:
        handle.truncate(100 << 20)  # a hole
        handle.seek(0, 2)
        handle.write(b"\n" + "".join(json.dumps(metrics(i, i / 4)) + "\n" for i in range(90, 110)).encode())
    read = []
    import io

    class Counting(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
            found = super().read(size)
            read.append(len(found or b""))
            return found or b""

    monkeypatch.setattr(Path, "open", lambda self, mode="r", **more: Counting(self, "rb"))
    found = standing(path)
    assert found == Standing("shape", 109, 4.0, None) and sum(read) <= TAIL


def test_the_tail_begins_with_a_whole_line(queue: Queue) -> None:
    path = folder(queue)
    say(path, *(metrics(i, i) for i in range(3000)))
    found = list(tail_events(path, 1000))
    assert 5 < len(found) < 15 and found[-1]["global_step"] == 2999 and all(each["kind"] == "metrics" for each in found)
    assert list(tail_events(path / "nothing")) == []


def test_the_newest_picture_and_the_newest_file_for_the_view(queue: Queue) -> None:
    path = folder(queue)
    for name in ("step_000009.png", "step_000100.png", "step_1000000.png", "step_x.png", "truth.png", ".step.tmp"):
        (path / "previews" / name).write_bytes(b"x")
    assert newest_preview(path) == "previews/step_1000000.png"
    (path / "previews" / "live_000050.glb").write_bytes(b"x")
    say(path, {"kind": "live", "path": "live_000050.glb", "step": 50, "of": "splat"})
    say(path, {"kind": "live", "path": "live_000060.glb", "step": 60, "of": "splat"}, {"kind": "live", "path": "../x"})
    live = view(queue).live
    assert live is not None and (live.step, live.kind) == (50, "splat"), "a file that is not there is not offered"
    assert live.url == "/v1/runs/abcdefghijkl/files/previews/live_000050.glb"
    assert view(queue).preview == "/v1/runs/abcdefghijkl/files/previews/step_1000000.png"


def test_artifacts_are_what_reports_name_and_what_is_there(queue: Queue) -> None:
    path = folder(queue)
    for place, kind in (("export", "glb"), ("export/unity", "preset:unity"), ("painted", ".glb")):
        (path / place).mkdir()
        (path / place / "model.glb").write_bytes(place.encode())
        record(path / place, [path / place / "model.glb"], 3, kind)
    (path / "export" / "gone.obj").write_bytes(b"x")
    record(path / "export", [path / "export" / "gone.obj"], 3, "obj")
    (path / "export" / "gone.obj").unlink()
    (path / "export" / "stranger.exe").write_bytes(b"x")
    found = view(queue).artifacts
    assert {each.name: each.kind for each in found} == {
        "export/model.glb": "glb",
        "export/unity/model.glb": "preset:unity",
        "painted/model.glb": ".glb",
    }
    assert all(each.sha256 == hashlib.sha256((path / each.name).read_bytes()).hexdigest() for each in found)
    assert found[0].url == "/v1/runs/abcdefghijkl/files/export/model.glb" and found[0].bytes == 6


def test_how_it_ended_is_how_it_is_shown(queue: Queue) -> None:
    path = folder(queue)
    say(path, metrics(140, 1.0), metrics(150, 2.0))
    job = queue.job("abcdefghijkl")
    queue.finish(job.id, job.attempt, 6)
    failed = view(queue)
    assert failed.error is not None and failed.error.code == "diverged" and failed.it_per_s is None
    kept = job_view(queue, replace(job, state="succeeded", stopped_at=30))
    assert (kept.step, kept.progress) == (30, 0.2)
    assert job_view(queue, replace(job, state="succeeded")).progress == 1.0


def test_a_job_whose_folder_is_gone_or_in_the_trash(queue: Queue) -> None:
    path = folder(queue)
    job = queue.job("abcdefghijkl")
    queue.finish(job.id, job.attempt, 0)
    queue.delete(job.id)
    assert view(queue).total == 150 and not path.exists(), "it is read where it lies"
    queue.purge(job.id)
    gone = job_view(queue, job)
    assert (gone.total, gone.preview, gone.artifacts) == (0, None, ())


def test_waiting_jobs_know_their_place(queue: Queue) -> None:
    queue.submit_all([Job(f"j{i}", "dream", run=f"r-{i}") for i in range(3)])
    assert [each.position for each in job_views(queue, queue.page().jobs)] == [3, 2, 1]
    assert view(queue, "j0").position == 1


@pytest.mark.parametrize(
    "text", ["", "stages: 3", "stages: [{}]", "{" * 3000, "&a [*a]", "stages: [{name: x, steps: many}]"]
)
def test_a_recipe_that_is_damaged_has_no_outline(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert outline(tmp_path).total == 0
    assert re.fullmatch("", outline(tmp_path).negative)
