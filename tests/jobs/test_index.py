# SPDX-License-Identifier: Apache-2.0
"""The index of all runs against what lies on the disk: nothing missing, nothing twice, nothing that is gone."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlab.core.errors import DiskError, InputError
from dreamlab.core.files import write_json
from dreamlab.core.text import slug
from dreamlab.jobs import index as module
from dreamlab.jobs.facts import BEING_MADE_S, MARKS, folded
from dreamlab.jobs.index import SORTS, RunIndex
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job
from dreamlab.run.folder import Run


def made(root: Path, prompt: str = "a red mushroom", **spec: Any) -> Run:
    run = Run.create(root, f"prompt: {prompt}\nseed: 7\n", prompt, ["dreamlab", "dream", prompt])
    if spec:
        write_json(run.path / "spec.json", run.spec() | spec)
    return run


def light(root: Path, prompt: str, created: str = "") -> Run:
    """The same with nothing flushed: for tests that make hundreds."""
    identity = "".join(random.choice("abcdefghij") for _ in range(12))
    run = Run(root / f"{slug(prompt)}-{identity}")
    run.path.mkdir()
    (run.path / "recipe.yaml").write_text("seed: 7\n")
    spec = {"id": identity, "prompt": prompt, "created": created or at(0)}
    (run.path / "spec.json").write_text(json.dumps(spec))
    return run


def of(run: Run) -> str:
    return run.path.name[-12:]


def walked(index: RunIndex, limit: int = 2, **how: Any) -> list[str]:
    """The ids of all pages."""
    found, cursor = [], ""
    while True:
        page = index.page(limit=limit, cursor=cursor, **how)
        found += [row.id for row in page.rows]
        if not (cursor := page.next) or len(found) > 500:
            return found


def at(minute: int) -> str:
    return f"2026-11-30T07:{minute:02d}:00.000+00:00"


def test_a_row_says_what_the_folder_says(tmp_path: Path) -> None:
    parent = {"id": "abcdefghijkl", "step": 4, "run": "elsewhere"}
    run = made(tmp_path, "a red mushroom", command=["dreamlab", "dream", "x", "--recipe", "oracle"], parent=parent)
    run.set_state(state="interrupted", step=12)
    (run.previews / "step_000009.png").write_bytes(b"")
    (run.previews / "step_000010.png").write_bytes(b"")
    lines = [("start", 0), ("metrics", 3), ("start", 20), ("finished", 24)]
    (run.path / "events.jsonl").write_text("".join(
        json.dumps({"time": f"2026-11-30T07:00:{s:02d}.500+00:00", "kind": kind}) + "\n" for kind, s in lines
    ))  # fmt: skip
    (row,) = RunIndex(tmp_path).page().rows
    assert (row.id, row.folder, row.prompt) == (of(run), run.path.name, "a red mushroom")
    assert (row.recipe, row.seed, row.state, row.step) == ("oracle", 7, "interrupted", 12)
    assert (row.poster, row.parent, row.owner) == ("previews/step_000010.png", "abcdefghijkl", "local")
    assert row.seconds == 7.0 and row.created == run.spec()["created"] and not row.damage and not row.job
    (run.export / "poster.png").write_bytes(b"")
    assert RunIndex(tmp_path).refresh() == 1
    shown = RunIndex(tmp_path).row(row.id).plain()
    assert shown["poster"] == f"/v1/runs/{row.id}/files/export/poster.png" and shown["favourite"] is False


@pytest.mark.parametrize("sort", SORTS)
def test_pages_hold_every_run_once_in_order(tmp_path: Path, sort: str) -> None:
    runs = [made(tmp_path, prompt, created=at(i % 3)) for i, prompt in enumerate(["bb", "aa", "dd", "cc", "ee"])]
    index = RunIndex(tmp_path)
    index.mark(of(runs[1]), favourite=True)
    index.mark(of(runs[4]), favourite=True)
    key = {
        "newest": lambda run: (run.spec()["created"], run.path.name),
        "oldest": lambda run: (run.spec()["created"], run.path.name),
        "name": lambda run: run.path.name,
        "favourite": lambda run: (run in (runs[1], runs[4]), run.spec()["created"], run.path.name),
    }[sort]
    wanted = [of(run) for run in sorted(runs, key=key, reverse=sort in ("newest", "favourite"))]
    for limit in (1, 2, 3, 50):
        assert walked(index, limit, sort=sort) == wanted
    assert index.page(limit=5).next == ""


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12), st.data())
def test_pages_stand_still_while_runs_come_and_go(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[int, bool]], data: st.DataObject
) -> None:
    """Of the runs that were there all the time, each is seen exactly once, whatever came or went between pages."""
    root = tmp_path_factory.mktemp("pages")
    runs = [light(root, "aa" if first else "zz", at(10 + minute)) for minute, first in given]
    sort, index = data.draw(st.sampled_from(["newest", "oldest", "name"])), RunIndex(root)
    stay = {of(run) for run in runs}
    seen, cursor = [], ""
    while True:
        page = index.page(limit=2, cursor=cursor, sort=sort)
        seen += [row.id for row in page.rows]
        if not (cursor := page.next):
            break
        light(root, data.draw(st.sampled_from(["aa", "mm", "zz"])), at(data.draw(st.integers(0, 40))))
        if len(seen) < len(runs) and data.draw(st.booleans()):
            gone = runs[data.draw(st.integers(0, len(runs) - 1))]
            stay.discard(of(gone))
            shutil.rmtree(gone.path, ignore_errors=True)
            runs = [run for run in runs if run.path.exists()] or [light(root, "aa")]
    assert len(seen) == len(set(seen))
    assert stay <= set(seen)


def test_a_cursor_of_another_list_is_refused(tmp_path: Path) -> None:
    for _ in range(3):
        made(tmp_path)
    index = RunIndex(tmp_path)
    cursor = index.page(limit=1).next
    forged = base64.urlsafe_b64encode(json.dumps(["newest", ["x"], {}]).encode()).decode()
    for bad, sort in ((cursor, "name"), ("%%%", "newest"), (forged, "newest"), ("bnVsbA", "newest"), ("é", "newest")):
        with pytest.raises(InputError, match="cursor: is none of this list"):
            index.page(cursor=bad, sort=sort)
    with pytest.raises(InputError, match="did you mean 'newest'"):
        index.page(sort="newst")
    with pytest.raises(InputError, match="limit: must be 1 to 200"):
        index.page(limit=0)


def test_words_are_found_as_they_begin(tmp_path: Path) -> None:
    prompts = [
        "a Red mushroom",
        "an infrared lamp",
        "ein roter Würfel",
        "红色蘑菇",
        'a "quoted" OR chair*',
        "100% cat_ear",
    ]
    runs = {prompt: of(made(tmp_path, prompt)) for prompt in prompts}
    index = RunIndex(tmp_path)

    def found(text: str) -> set[str]:
        return {row.prompt for row in index.page(text=text).rows}

    assert found("red") == {"a Red mushroom"}
    assert found("mush RED") == {"a Red mushroom"} and found("red lamp") == set()
    assert found("wurfel") == {"ein roter Würfel"} and found("蘑菇") == {"红色蘑菇"} and found("菇蘑") == set()
    assert found('"quoted" OR') == {'a "quoted" OR chair*'} and found("100%") == {"100% cat_ear"}
    assert found("%") == set(runs) == found("") and found("_ear") == {"100% cat_ear"}


WORDS = st.text(alphabet="aAäbß-红_%\"'* é1٣ﬁ", max_size=10)


@given(st.lists(WORDS, min_size=1, max_size=5), WORDS)
def test_both_ways_of_search_find_the_same(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], text: str
) -> None:
    """FTS5, LIKE where SQLite comes without, and a plain loop over the prompts."""
    root = tmp_path_factory.mktemp("words")
    for prompt in prompts:
        light(root, prompt)
    terms = [term for word in text.split() if (term := folded(word))]
    wanted = sorted(p for p in prompts if all(term in (folded(p) or " dream-") for term in terms))
    with pytest.MonkeyPatch.context() as patch:
        fts = RunIndex(root, root / "fts.sqlite").page(text=text).rows
        patch.setattr(module, "_has_words", lambda db: False)
        like = RunIndex(root, root / "like.sqlite").page(text=text).rows
    unnamed = not all(folded(p) for p in prompts)  # found by their folders' names, which are drawn
    assert unnamed or sorted(row.prompt for row in fts) == wanted
    assert sorted(row.folder for row in like) == sorted(row.folder for row in fts)


def test_damaged_folders_are_listed_and_nothing_else_is(tmp_path: Path) -> None:
    whole = made(tmp_path)
    bad: dict[str, Run] = {name: made(tmp_path) for name in ("cut", "list", "nul", "deep", "norecipe", "state", "huge")}
    (bad["cut"].path / "spec.json").write_bytes(b'{"id": "x')
    (bad["list"].path / "spec.json").write_text("[1]")
    (bad["nul"].path / "spec.json").write_bytes(bytes(300))
    (bad["deep"].path / "spec.json").write_text("[" * 100_000)
    (bad["huge"].path / "spec.json").write_bytes(b" " * (2 << 20))
    (bad["norecipe"].path / "recipe.yaml").unlink()
    (bad["state"].path / "state.json").write_text("{]")
    odd = made(tmp_path)
    write_json(odd.path / "spec.json", {"id": 3, "prompt": None, "created": "yesterday", "command": "x", "parent": "y"})
    write_json(odd.path / "state.json", {"state": ["x"], "step": "9"})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no run")
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    rows = {row.folder: row for row in RunIndex(tmp_path).page().rows}
    assert set(rows) == {run.path.name for run in (whole, odd, *bad.values())}
    for name, run in bad.items():
        row = rows[run.path.name]
        assert row.state == "damaged" and row.damage and row.id == run.path.name[-12:], name
        json.dumps(row.plain())
    assert rows[bad["norecipe"].path.name].damage == "recipe.yaml is missing"
    assert rows[odd.path.name].state == "created" and rows[odd.path.name].step == 0
    assert rows[whole.path.name].state == "created"


def test_a_name_that_is_no_text_breaks_nothing(tmp_path: Path) -> None:
    run, other = made(tmp_path), made(tmp_path)
    run.path.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    rows = {row.folder: row for row in RunIndex(tmp_path).page().rows}
    assert rows["caf\\udce9"].damage == "its name is no text" and other.path.name in rows
    assert len(RunIndex(tmp_path).page().rows) == 2
    shutil.rmtree(os.fsencode(tmp_path) + b"/caf\xe9")
    assert len(RunIndex(tmp_path).page().rows) == 1


def test_a_folder_that_is_being_made_is_not_damaged_yet(tmp_path: Path) -> None:
    run = made(tmp_path)
    (run.path / "spec.json").unlink()
    index = RunIndex(tmp_path)
    assert index.page().rows == ()
    then = run.path.stat().st_mtime - BEING_MADE_S - 1
    os.utime(run.path, (then, then))
    (row,) = index.page().rows
    assert row.damage == "spec.json is missing"


def test_what_changes_in_a_folder_is_seen(tmp_path: Path) -> None:
    """By its times alone, also when they say that it is long ago; folders that did not change are not read again."""
    runs = [made(tmp_path) for _ in range(3)]
    for run in runs:
        age(run, 3600)
    index = RunIndex(tmp_path)
    index.refresh()
    assert index.refresh() == 0
    (runs[0].path / "spec.json").write_text("{")  # in place, the folder's times as they were: not looked for
    runs[1].set_state(state="succeeded", step=300)
    age(runs[1], 1800)
    assert index.refresh() == 1
    rows = {row.id: row for row in index.page().rows}
    assert len(rows) == 3 and rows[of(runs[1])].state == "succeeded" and rows[of(runs[1])].step == 300
    assert index.rebuild() == 3
    assert [row.state for row in index.page().rows].count("damaged") == 1


def age(run: Run, seconds: float) -> None:
    """As if nothing had been written for so long."""
    for path in (run.path, *run.path.iterdir()):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_two_changes_within_a_tick_of_the_clock_are_both_seen(tmp_path: Path) -> None:
    run = made(tmp_path)
    run.set_state(state="failed")
    index = RunIndex(tmp_path)
    times = {path: path.stat() for path in (run.path, run.path / "state.json")}
    assert index.page().rows[0].state == "failed"
    text = (run.path / "state.json").read_text().replace("failed", "stoppd")
    (run.path / "state.json").write_text(text)
    for path, before in times.items():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert index.page().rows[0].state == "stoppd"


def test_new_and_deleted_folders_need_no_second_look(tmp_path: Path) -> None:
    index = RunIndex(tmp_path)
    assert index.page().rows == () and index.count() == 0
    run = made(tmp_path)
    age(run, 3600)
    assert [row.id for row in index.page().rows] == [of(run)]
    shutil.rmtree(run.path)
    assert index.page().rows == () and index.page(text="red").rows == ()


def test_a_killed_run_does_not_run(tmp_path: Path) -> None:
    """By the process that its lock names, which is not tried: who tries it holds it."""
    run = made(tmp_path)
    run.set_state(state="running", step=3)
    code = "import time; from pathlib import Path; from dreamlab.run.folder import Run\n"
    code += f"with Run(Path({str(run.path)!r})).lock(): print('held', flush=True); time.sleep(100)"
    index = RunIndex(tmp_path)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        age(run, 3600)
        assert index.page().rows[0].state == "running"
        holder.kill()
    assert index.page().rows[0].state == "interrupted"
    assert not run.busy()


def test_marks_outlive_the_index(tmp_path: Path) -> None:
    run, other = made(tmp_path), made(tmp_path)
    index = RunIndex(tmp_path)
    assert index.mark(of(run), favourite=True).favourite
    assert index.mark(of(run), trashed=True).trashed
    index.rebuild()
    assert [row.id for row in index.page().rows] == [of(other)] and index.count(trash=True) == 1
    (gone,) = index.page(trash=True).rows
    assert gone.favourite and gone.id == of(run) and not run.path.exists()
    assert not index.mark(of(run), trashed=False).trashed
    assert [row.id for row in index.page(favourite=True).rows] == [of(run)]
    (run.path / MARKS).write_text("nonsense")
    assert index.refresh() >= 1 and not index.row(of(run)).favourite
    with pytest.raises(InputError, match="there is none"):
        index.mark("nobodynobody", favourite=True)
    with pytest.raises(InputError, match="not in the trash"):
        index.purge(of(run))
    index.mark(of(run), trashed=True)
    index.purge(of(run))
    assert index.count() == 1 and index.count(trash=True) == 0 and not list(tmp_path.rglob(run.path.name))


def test_a_copy_of_a_run_has_a_name_of_its_own(tmp_path: Path) -> None:
    run = made(tmp_path)
    shutil.copytree(run.path, tmp_path / "a-copy")
    shutil.copytree(run.path, tmp_path / "zcopy")
    index = RunIndex(tmp_path)
    assert {row.id: row.folder for row in index.page().rows} == {
        of(run): run.path.name, "a-copy": "a-copy", "zcopy": "zcopy"
    }  # fmt: skip
    shutil.rmtree(run.path)
    assert {row.id: row.folder for row in index.page().rows} == {of(run): "a-copy", "zcopy": "zcopy"}
    shutil.rmtree(tmp_path / "a-copy")
    (tmp_path / "zcopy").rename(tmp_path / "best of all")
    assert {row.id: row.folder for row in index.page().rows} == {of(run): "best of all"}


def test_the_family_of_a_run(tmp_path: Path) -> None:
    eldest = made(tmp_path, "first", created=at(0))
    child = made(tmp_path, "second", created=at(1), parent={"id": of(eldest)})
    twin = made(tmp_path, "third", created=at(2), parent={"id": of(eldest)})
    grandchild = made(tmp_path, "fourth", created=at(3), parent={"id": of(twin)})
    made(tmp_path, "stranger")
    index = RunIndex(tmp_path)

    def shape(node: Any) -> Any:
        return (node["id"], [shape(child) for child in node["children"]])

    wanted = (of(eldest), [(of(child), []), (of(twin), [(of(grandchild), [])])])
    for run in (eldest, child, twin, grandchild):
        assert shape(index.tree(of(run)).plain()) == wanted
    shutil.rmtree(eldest.path)
    found = index.tree(of(grandchild)).plain()
    assert shape(found) == wanted and (found["prompt"], found["state"]) == ("", "gone")
    write_json(child.path / "spec.json", child.spec() | {"parent": {"id": of(grandchild)}})
    write_json(twin.path / "spec.json", twin.spec() | {"parent": {"id": of(child)}})  # a circle, forged
    index.refresh()
    assert of(child) in json.dumps(index.tree(of(twin)).plain())


def test_a_large_family_is_cut_not_fatal(tmp_path: Path) -> None:
    eldest = made(tmp_path)
    for _ in range(520):
        child = light(tmp_path, "child")
        (child.path / "spec.json").write_text(json.dumps(child.spec() | {"parent": {"id": of(eldest)}}))
    tree = RunIndex(tmp_path).tree(of(eldest))
    assert tree.id == of(eldest) and 400 < len(tree.children) < 520


def test_a_long_line_of_descent_is_cut_not_fatal(tmp_path: Path) -> None:
    last = made(tmp_path)
    for _ in range(150):
        older, last = last, light(tmp_path, "child")
        write_json(last.path / "spec.json", last.spec() | {"parent": {"id": of(older)}})
    text = json.dumps(RunIndex(tmp_path).tree(of(last)).plain())
    assert of(last) in text and text.count('"children"') <= 130


def test_what_the_queue_knows_counts_before_the_folder(tmp_path: Path) -> None:
    mine, theirs, local = (made(tmp_path, prompt) for prompt in ("mine", "theirs", "local"))
    index, queue = RunIndex(tmp_path), Queue(tmp_path)
    queue.submit(Job(of(mine), "dream", "ann", run=mine.path.name, recipe="oracle"))
    queue.submit(Job(of(theirs), "dream", "bob", run=theirs.path.name))
    queue.favourite(of(theirs), True)
    queue.submit(Job("exportexport", "export", "eve", run=theirs.path.name))
    assert queue.claim(1, "cpu", []) is not None
    rows = {row.id: row for row in index.page().rows}
    assert {rows[of(run)].state for run in (mine, theirs)} == {"queued", "running"}
    assert (rows[of(mine)].owner, rows[of(mine)].recipe, rows[of(mine)].job) == ("ann", "oracle", True)
    assert (rows[of(theirs)].owner, rows[of(theirs)].favourite) == ("bob", True)
    assert (rows[of(local)].owner, rows[of(local)].job) == ("local", False)
    assert [row.id for row in index.page(owner="ann").rows] == [of(mine)]
    with pytest.raises(InputError, match="there is none"):
        index.row(of(theirs), owner="ann")
    with pytest.raises(InputError, match="whose marks the queue keeps"):
        index.mark(of(mine), favourite=True)
    with pytest.raises(InputError, match="the queue removes it"):
        index.purge(of(mine))


def test_the_trash_of_the_queue_is_that_of_the_list(tmp_path: Path) -> None:
    parent, run = made(tmp_path), made(tmp_path)
    index, queue = RunIndex(tmp_path), Queue(tmp_path)
    queue.submit(Job(of(run), "branch", "ann", run=run.path.name, parent=of(parent)))
    assert index.tree(of(run)).id == of(parent)
    assert index.tree(of(run), owner="ann").plain()["prompt"] == ""  # of somebody else's run only the id
    queue.delete(of(run))
    assert index.page(owner="ann").rows == () and not run.path.exists()
    (row,) = index.page(trash=True).rows
    assert row.id == of(run) and row.trashed == queue.job(of(run)).deleted and row.state == "cancelled"
    queue.restore(of(run))
    assert index.page(owner="ann").rows[0].trashed == "" and index.count(trash=True) == 0
    queue.data.close()
    for path in (tmp_path / ".jobs").glob("queue.sqlite*"):
        path.unlink()
    fresh = Queue(tmp_path)  # another one, that begins again at 1
    fresh.submit(Job(of(parent), "dream", "cy", run=parent.path.name))
    assert {row.id: row.owner for row in index.page().rows} == {of(run): "local", of(parent): "cy"}


def test_a_queue_that_cannot_be_read_makes_nobody_the_owner(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "queue.sqlite").write_bytes(b"this is no database at all, whatever it is called" * 40)
    with pytest.raises(DiskError, match="the queue cannot be read"):
        RunIndex(tmp_path).page()


@pytest.mark.parametrize("damage", ["text", "cut", "version", "hole", "empty", "table"])
def test_a_damaged_index_is_made_anew(tmp_path: Path, damage: str) -> None:
    runs = {of(light(tmp_path, "a lamp")) for _ in range(30)}
    index = RunIndex(tmp_path)
    index.refresh()
    data = index.file.read_bytes()
    if damage == "version":
        with closing(sqlite3.connect(index.file)) as db:
            db.execute("PRAGMA user_version = 99")
    elif damage == "table":
        with closing(sqlite3.connect(index.file)) as db:
            db.execute("DROP TABLE known")
    else:
        broken = {"text": b"hello" * 1000, "cut": data[: len(data) // 2], "empty": b""}
        index.file.write_bytes(broken.get(damage, data[:4096] + bytes(len(data) - 4096)))
    assert set(walked(index, 50)) == runs
    with closing(sqlite3.connect(index.file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (30,)


def test_the_index_of_a_root_that_nobody_may_write_lies_elsewhere(tmp_path: Path) -> None:
    run = made(tmp_path / "runs")
    (tmp_path / "runs" / ".jobs").write_text("in the way")
    with pytest.raises(DiskError, match=r"making the index failed.*move that away"):
        RunIndex(tmp_path / "runs").page()
    assert [row.id for row in RunIndex(tmp_path / "runs", tmp_path / "index.sqlite").page().rows] == [of(run)]


def test_threads_and_processes_see_the_same(tmp_path: Path) -> None:
    """Four read, two look, and one makes and removes runs: no error, what stays is always there, and in the end what
    is there."""
    keep = {of(made(tmp_path)) for _ in range(20)}
    wrong: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                assert keep <= set(walked(RunIndex(tmp_path), 50))
        except BaseException as error:
            wrong.append(error)

    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_look_often, args=(tmp_path,)) for _ in range(2)]
    threads = [threading.Thread(target=read) for _ in range(4)]
    for each in (*others, *threads):
        each.start()
    for i in range(30):
        run = made(tmp_path)
        if i % 2:
            shutil.rmtree(run.path)
    for other in others:
        other.join(60)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not wrong and [other.exitcode for other in others] == [0, 0]
    there = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    index = RunIndex(tmp_path)
    index.refresh()
    assert {row.folder for row in index.page(limit=200).rows} == there


def _look_often(root: Path) -> None:
    for _ in range(15):
        RunIndex(root).refresh()
