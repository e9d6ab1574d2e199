# SPDX-License-Identifier: Apache-2.0
"""What would be removed, as each owner is told of it: their own alone, and nothing goes by asking."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dreamlab.jobs.queue import Queue
from dreamlab.jobs.retention import Policy
from dreamlab.jobs.states import Job
from dreamlab.jobs.tidying import set_policy
from tests.studio import serving
from tests.studio.chromium import chromium, shot

COLOURS = ("red", "green", "blue")


def test_a_dry_run_is_of_one_s_own_and_changes_nothing(tmp_path: Path) -> None:
    studio = serving.studio(tmp_path / "runs", users=serving.USERS)
    ann, bob = (serving.client(studio, name) for name in serving.USERS)
    for name, owner, size in (("a", "ann", 3), ("b", "bob", 5)):
        folder = studio.root / f"r-{name}"
        folder.mkdir(parents=True)
        (folder / "scene").write_bytes(bytes(size << 20))
        studio.queue.submit(Job(name, "dream", owner, run=folder.name))
        claimed = studio.queue.claim(1, "cpu")
        assert claimed is not None and studio.queue.finish(claimed.id, claimed.attempt, 0)
    assert ann.get("/v1/retention").json() | {"policy": 0} == {
        "scheduled": False, "policy": 0, "used": 3 << 20, "count": 0, "going": [], "freed": 0
    }  # fmt: skip
    for client, name, size in ((ann, "a", 3), (bob, "b", 5)):
        told = client.get("/v1/retention?quota_mib=1").json()
        assert [each["job"] for each in told["going"]] == [name] and told["freed"] == size << 20
        assert client.get("/v1/retention?days=0").json()["going"][0]["what"] == "trash"
    assert studio.queue.job("a").deleted == "" and (studio.root / "r-a" / "scene").exists()
    set_policy(studio.root, Policy(owner_quota_mib=4))
    assert ann.get("/v1/retention").json()["count"] == 0
    told = bob.get("/v1/retention").json()
    assert told["scheduled"] and told["count"] == 1 and told["policy"]["owner_quota_mib"] == 4
    assert ann.get("/v1/retention?days=-1").status_code == 422


def listed(box: Any) -> list[str]:
    """Colours of the prompts that the dialog lists."""
    return sorted(line.split()[1] for line in box.locator("li").all_text_contents())


@pytest.mark.browser
def test_old_runs_are_shown_go_to_the_trash_and_come_back(tmp_path: Path) -> None:
    """By the dialog of the gallery; the queue's table is read past the studio."""
    root = tmp_path / "runs"
    user = serving.client(serving.studio(root))
    ids = [user.post("/v1/jobs", json=serving.body(f"a {colour} mushroom")).json()["id"] for colour in COLOURS]
    for job, size in zip(serving.work(root), (3, 5, 7), strict=True):
        (root / job.run / "much").write_bytes(bytes(size << 20))
    with Queue(root) as queue:
        queue.favourite(ids[1], True)

    def gone() -> list[str]:
        with sqlite3.connect(f"file:{root}/.jobs/queue.sqlite?mode=ro", uri=True) as db:
            return sorted(row[0] for row in db.execute("SELECT id FROM jobs WHERE deleted != ''"))

    with serving.serving(root, page=True, work=False) as server, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{server.url}/?tab=gallery")
        page.get_by_role("button", name="Tidy up").click()
        box = page.get_by_role("dialog")
        box.get_by_text("Nothing would go").wait_for()
        assert box.get_by_role("button", name="Move to the trash").is_disabled()
        box.get_by_label("Older than, days").fill("0")
        box.get_by_text("2 runs").wait_for()
        assert listed(box) == ["blue", "red"], "a favourite stays"
        shot(page, "tidy")
        box.get_by_label("Older than, days").fill("")
        box.get_by_label("Keep at most, MiB").fill("14")
        box.get_by_text("1 run,").wait_for()
        assert listed(box) == ["red"], "the oldest"
        assert gone() == []
        box.get_by_role("button", name="Move to the trash").click()
        page.get_by_text("1 run went to the trash").wait_for()
        assert gone() == ids[:1]
        page.get_by_role("button", name="Undo").click()
        serving.until(lambda: gone() == [])
        assert next(root.glob(f"*{ids[0]}/much")).stat().st_size == 3 << 20
