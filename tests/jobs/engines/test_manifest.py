# SPDX-License-Identifier: Apache-2.0
"""What a batch's file may say, line by line, and that the store keeps one batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamlab.core.errors import DreamError, InputError
from dreamlab.jobs.engines.manifest import SHARD, read_manifest, wanted, write_manifest
from dreamlab.jobs.engines.report import BatchStanding, retry_failed, standing
from dreamlab.jobs.engines.simulated import PlainStore, Simulation


def written(place: Path, name: str, text: str) -> Path:
    path = place / name
    path.write_text(text, "utf-8")
    return path


def test_lines_and_tables_say_the_same(tmp_path: Path) -> None:
    lines = '{"prompt": "a red duck", "seed": 3, "settings": {"steps": "9"}}\n\n{"prompt": "ein “Haus” # yes: ${x}"}\n'
    table = 'prompt,seed,steps\na red duck,3,9\n"ein “Haus” # yes: ${x}",,\n'
    found = [list(wanted(written(tmp_path, *each))) for each in (("a.jsonl", lines), ("a.csv", table))]
    assert found[0] == found[1]
    assert found[0][1] == {"prompt": "ein “Haus” # yes: ${x}"}


def test_a_matrix_zips_outside_and_crosses_inside(tmp_path: Path) -> None:
    text = (
        "job: {recipe: oracle}\nzip: {prompt: [a red duck, a blue car], seed: [1, 2]}\ncross: {stages.0.steps: [5, 9]}"
    )
    made = [(row["prompt"], row["seed"], row["settings"]) for row in wanted(written(tmp_path, "m.yaml", text))]
    duck, car = ("a red duck", 1), ("a blue car", 2)
    assert made == [(*who, {"stages.0.steps": steps}) for who in (duck, car) for steps in (5, 9)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "a red duck"}\n{"prompt"', "a.jsonl:2: is no JSON"),
        ("a.jsonl", '{"prompt": "a red duck", "sead": 1}', "a.jsonl:1: 'sead' is none of prompt"),
        ("a.jsonl", '{"seed": 1}', "needs a prompt"),
        ("a.jsonl", '{"prompt": "a red duck", "seed": -1}', "seed '-1' is no whole number"),
        ("a.jsonl", '["a red duck"]', "is no job"),
        ("a.jsonl", '{"prompt": "a\\u0000b"}', "control character"),
        ("a.jsonl", '{"prompt": "a duck", "image": "nowhere.png"}', "no such file"),
        ("a.csv", "prompt,seed\na red duck\n", "a.csv:2: has fewer cells"),
        ("a.csv", "prompt\na red duck,3\n", "a.csv:2: has more cells"),
        ("a.csv", "prompt,seed\na red duck,x\n", "seed 'x' is no whole number"),
        ("a.yaml", "cross: {seed: 3}", "zip and cross hold lists"),
        ("a.yaml", "zip: {seed: [1, 2], prompt: [a duck]}", "not of one length"),
        ("a.yaml", "jobs: []", "a matrix has job, zip, cross"),
        ("a.yaml", "{", "a.yaml: while parsing"),
        ("a.txt", "a red duck", ".jsonl or .csv"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(DreamError) as caught:
        list(wanted(written(tmp_path, name, text)))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_shards_are_of_a_thousand_and_another_batch_is_refused() -> None:
    shelf = PlainStore()
    jobs = [{"prompt": f"duck {i}"} for i in range(2 * SHARD + 5)]
    manifest = write_manifest(shelf, iter(jobs))
    assert manifest.shards() == {0: SHARD, 1: SHARD, 2: 5}
    assert [task.wanted for task in read_manifest(shelf).tasks()] == jobs
    write_manifest(shelf, iter(jobs))  # the same again
    with pytest.raises(InputError, match="another batch lies there"):
        write_manifest(shelf, iter(jobs[:-1]))
    with pytest.raises(InputError, match="has no jobs"):
        write_manifest(PlainStore(), iter([]))
    with pytest.raises(InputError, match="no batch lies there"):
        read_manifest(PlainStore())


def test_standing_is_read_from_the_store_alone_and_failures_by_cause() -> None:
    shelf = PlainStore()
    manifest = write_manifest(shelf, iter([{"prompt": f"duck {i}"} for i in range(20)]))
    fate = {3: "fails", 8: "fails", 11: "dies"}
    world = Simulation(shelf, manifest, lambda held: 1, lambda held: fate.get(held.task.row, "ends"))  # type: ignore[arg-type]
    world.hire("a")
    world.hire("b")
    assert standing(shelf) == BatchStanding(20, 0, 0, 0, 0)
    world.run()
    now = standing(shelf)
    assert (now.done, now.given_up, now.begun, now.attempts) == (17, 3, 0, 17 + 2 + 3)
    assert dict(now.causes) == {"exit 6: diverged": 2, "exit 137: its worker died 3 times": 1}
    assert retry_failed(shelf) == 3 and standing(shelf).begun == 3
    fate.clear()
    world.hire("c")
    world.run()
    assert standing(shelf).done == 20 and standing(shelf).given_up == 0
