# SPDX-License-Identifier: Apache-2.0
"""The panels in a real browser on a studio with a worker: what is seen is held against the run's folder, the queue's
table read by another connection, and what was sent."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.studio.chromium import chromium
from tests.studio.serving import TINY, Server, body, ended, until

pytestmark = pytest.mark.browser
PATIENCE_MS = 120_000  # drawing in software on a busy machine
# Of some seconds, so that a page that asks every second sees it grow.
SEEN = TINY | {
    "steps": 144,
    "size": 64,
    "stages.0.views": 4,
    "stages.0.scene.count": 3000,
    "keeping.preview": 6,
    "keeping.log": 2,
}
STEPS = 144
Json = dict[str, Any]


@dataclass
class Place:
    """A studio with a browser before it."""

    url: str
    root: Path
    browser: Any
    formed: str = ""  # a run that was watched while it formed
    watched: list[Json] = field(default_factory=list)  # what the page showed meanwhile
    batch: Json = field(default_factory=dict)

    def page(self, query: str, **more: Any) -> Any:
        page = self.browser.new_context(viewport={"width": 1280, "height": 900}, **more).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.wrong = []
        page.asked = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("request", lambda request: page.asked.append((request.method, request.url, request.post_data)))
        page.goto(f"{self.url}/?{query}")
        return page

    def post(self, path: str, **sent: Any) -> Json:
        answer = httpx.post(f"{self.url}/v1/{path}", json=sent, timeout=60)
        assert answer.status_code < 300, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}/v1/{path}", timeout=60).raise_for_status().json()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The queue's table as anybody reads it, past the studio."""
        with sqlite3.connect(f"file:{self.root}/.jobs/queue.sqlite?mode=ro", uri=True) as db:
            return db.execute(query, values).fetchall()

    def line(self, lane: str = "normal") -> list[str]:
        query = "SELECT id FROM jobs WHERE state = 'queued' AND deleted = '' AND lane = ? ORDER BY priority DESC, place"
        return [row[0] for row in self.rows(query, lane)]

    def events(self, identity: str) -> list[Json]:
        (path,) = self.root.glob(f"*-{identity}/events.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


SHOWS = """() => {
  const watch = document.querySelector('dl-watch');
  const path = watch.querySelector('.dlw-curves [data-series="loss"] path');
  return {
    state: watch.querySelector('.dl-state')?.dataset.state ?? '',
    frames: [...watch.querySelectorAll('.dlp-frame')].map((one) => Number(one.dataset.key)),
    loss: path ? path.getAttribute('d').split(/[ML]/).length - 1 : 0,
    now: [...watch.querySelectorAll('.dlw-now dd')].map((one) => one.textContent),
  };
}"""


def form(place: Place) -> None:
    """One run, and what the page shows of it from its submission to its end."""
    place.formed = place.post("jobs", **body(settings=dict(SEEN)))["id"]
    page = place.page(f"tab=watch&job={place.formed}")
    page.wait_for_selector("dl-watch .dlw-title")
    end = time.monotonic() + 240
    while not place.watched or place.watched[-1]["state"] != "succeeded":
        assert time.monotonic() < end, place.watched[-1:]
        place.watched.append(page.evaluate(SHOWS))
        time.sleep(0.15)
    assert page.wrong == []
    page.context.close()


@pytest.fixture(scope="module")
def place(at_work: Server) -> Iterator[Place]:
    with chromium() as browser:
        made = Place(at_work.url, at_work.root, browser)
        form(made)
        job = {key: value for key, value in body().items() if key != "recipe"}
        made.batch = made.post("batches", job=job, cross={"recipe": ["sds", "csd"]})
        for each in made.batch["jobs"]:
            assert ended(made.url, each["id"], 240)["state"] == "succeeded"
        yield made


def test_frames_and_curves_grow_while_it_forms(place: Place) -> None:
    forming = [each for each in place.watched if each["state"] == "running"]
    assert forming, "the page never showed it forming"
    assert len({len(each["frames"]) for each in place.watched}) >= 3
    for one, next_one in zip(place.watched, place.watched[1:], strict=False):
        assert next_one["frames"][: len(one["frames"])] == one["frames"]  # what came stays, newer ones behind it
    (folder,) = place.root.glob(f"*-{place.formed}/previews")
    drawn = sorted(int(path.stem[5:]) for path in folder.glob("step_*.png"))
    assert place.watched[-1]["frames"] == drawn and len(drawn) >= 6
    read = [event for event in place.events(place.formed) if event["kind"] == "metrics"]
    assert place.watched[-1]["loss"] == len(read) == STEPS // 2


def test_the_nearness_to_the_truth_is_drawn_from_the_events(place: Place) -> None:
    page = place.page(f"tab=watch&job={place.formed}")
    page.wait_for_selector('[data-series="truth_iou"] path')
    drawn, height = page.evaluate("""() => {
      const plot = document.querySelector('[data-series="truth_iou"]').ownerSVGElement;
      return [plot.querySelector('path').getAttribute('d'), plot.viewBox.baseVal.height];
    }""")
    points = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", drawn)]
    told = [
        (event.get("global_step", event.get("step")), event["iou"])
        for event in place.events(place.formed)
        if event["kind"] == "truth"
    ]
    assert len(points) == len(told) >= 2
    for (_, y), (_, iou) in zip(points, told, strict=True):
        assert y == pytest.approx((height - 4) * (1 - iou), abs=0.02)
    assert points[0][0] == 0 and points[-1][0] == 320
    shown = page.locator('.dlp-truth img[src$="/previews/truth.png"]').last
    shown.wait_for()
    assert shown.evaluate("(image) => image.naturalWidth / image.naturalHeight") == 4
    page.context.close()


def test_a_moment_is_looked_back_at_and_comes_again_after_a_reload(place: Place) -> None:
    page = place.page(f"tab=watch&job={place.formed}")
    page.get_by_role("radio", name="Step 12", exact=True).click()
    page.wait_for_url("**at=12*")
    page.reload()
    picture = page.locator(".dlp-stage .dlp-sheet img").first
    picture.wait_for()
    assert picture.get_attribute("src").endswith("/previews/step_000012.png")
    assert page.get_by_role("radio", name="Step 12", exact=True).get_attribute("aria-checked") == "true"
    loss = next(event["loss"] for event in place.events(place.formed) if event.get("global_step") == 12)
    said = page.locator(".dlw-curves .dl-chart-value").first.inner_text()
    assert said.endswith(" at 12") and float(said.split()[0]) == pytest.approx(loss, rel=0.006)
    page.get_by_role("radio", name="Step 12", exact=True).press("ArrowRight")
    after = next(step for step in place.watched[-1]["frames"] if step > 12)
    page.wait_for_url(f"**at={after}*")
    page.get_by_role("button", name="Back to now").click()
    until(lambda: "at=" not in page.url)
    page.context.close()


def test_the_finished_model_is_drawn(place: Place) -> None:
    page = place.page(f"tab=watch&job={place.formed}")
    page.wait_for_selector('.dlp-canvas[data-view-state="shown"]')
    share = page.evaluate("""async () => {
      const { data } = await document.querySelector('dl-watch').stage.viewer.pixels();
      let seen = 0;
      for (let i = 3; i < data.length; i += 4) seen += data[i] > 200;
      return seen / (data.length / 4);
    }""")
    assert 0.02 < share < 0.95
    page.context.close()


def test_a_branch_is_asked_for_and_its_family_is_shown(place: Place) -> None:
    page = place.page(f"tab=watch&job={place.formed}")
    page.get_by_role("button", name="Branch").click()
    box = page.get_by_role("dialog")
    box.get_by_label("Seed").fill("77")
    box.get_by_label("Steps from there").fill("4")
    box.get_by_label("Settings").fill("stages.0.nonsense=1")
    box.get_by_role("button", name="Branch").click()
    wrong = box.get_by_role("alert").filter(has_text="nonsense")
    wrong.wait_for()
    box.get_by_label("Settings").fill("")
    box.get_by_role("button", name="Branch").click()
    page.wait_for_url(lambda url: "job=" in url and place.formed not in url)
    child = re.search(r"job=(\w+)", page.url)[1]  # type: ignore[index]
    told = place.get(f"jobs/{child}")
    assert (told["kind"], told["seed"], told["parent"]) == ("branch", 77, place.formed)
    page.wait_for_selector(".dl-tree")
    links = page.locator(".dl-tree a")
    assert [link.get_attribute("href").split("job=")[1] for link in links.all()] == [place.formed, child]
    assert links.nth(1).get_attribute("aria-current") == "page"
    assert ended(place.url, child, 240)["state"] == "succeeded"
    page.context.close()


@pytest.fixture
def waiting(place: Place) -> Iterator[list[str]]:
    """A paused queue with four jobs and a batch of three; all are gone afterwards."""
    place.post("queue/pause")
    made = [
        place.post("jobs", **body(f"a {colour} ball", seed=i))["id"]
        for i, colour in enumerate(["red", "green", "blue", "white"])
    ]
    batch = place.post("batches", job=body("a yellow ball"), cross={"seed": [5, 6, 7]})
    yield [*made, *(job["id"] for job in batch["jobs"])]
    for identity in place.line() + place.line("background"):
        place.post(f"jobs/{identity}/cancel")
    place.post("queue/resume")


def order(page: Any, name: str = "Waiting, in order") -> list[str]:
    rows = page.get_by_role("list", name=name).locator("> li")
    return [one for ids in rows.evaluate_all("(rows) => rows.map((row) => row.dataset.ids)") for one in ids.split(",")]


def test_rows_are_dragged_and_the_queue_has_that_order(place: Place, waiting: list[str]) -> None:
    page = place.page("tab=queue")
    page.get_by_text("The queue is paused.").wait_for()
    rows = page.get_by_role("list", name="Waiting, in order").locator("> li")
    until(lambda: order(page) == waiting)
    assert rows.count() == 5  # the batch is folded
    grip, goal = rows.nth(3).locator(".dlp-handle").bounding_box(), rows.nth(0).bounding_box()
    page.mouse.move(grip["x"] + 10, grip["y"] + 10)
    page.mouse.down()
    page.mouse.move(grip["x"] + 10, grip["y"] - 20, steps=4)
    page.mouse.move(grip["x"] + 10, goal["y"] + 4, steps=8)
    until(lambda: order(page)[0] == waiting[3])
    page.mouse.up()
    wanted = [waiting[3], *waiting[:3], *waiting[4:]]
    until(lambda: place.line() == wanted)
    until(lambda: order(page) == wanted)
    told = [(url, json.loads(sent)) for method, url, sent in page.asked if url.endswith("/move")]
    assert told == [(f"{place.url}/v1/jobs/{waiting[3]}/move", {"before": waiting[0]})]
    assert page.wrong == []
    page.context.close()


def test_rows_are_moved_by_keys_batches_whole_and_into_the_other_lane(place: Place, waiting: list[str]) -> None:
    page = place.page("tab=queue")
    until(lambda: order(page) == waiting)
    batch = waiting[4:]
    grip = page.get_by_role("list", name="Waiting, in order").locator("> li").nth(4).locator(".dlp-handle")
    grip.press("ArrowUp")
    wanted = [*waiting[:3], *batch, waiting[3]]
    until(lambda: place.line() == wanted)
    until(lambda: order(page) == wanted)
    assert page.evaluate("document.activeElement.className") == "dlp-handle"
    page.keyboard.press("ArrowDown")
    until(lambda: place.line() == waiting)
    page.keyboard.press("ArrowDown")
    until(lambda: place.line("background") == batch and place.line() == waiting[:4])
    assert "background lane" in page.locator("dl-queue [aria-live]").inner_text()
    page.context.close()


def test_a_dropped_row_that_is_taken_back_stays(place: Place, waiting: list[str]) -> None:
    page = place.page("tab=queue")
    until(lambda: order(page) == waiting)
    grip = (
        page.get_by_role("list", name="Waiting, in order").locator("> li").nth(2).locator(".dlp-handle").bounding_box()
    )
    page.mouse.move(grip["x"] + 10, grip["y"] + 10)
    page.mouse.down()
    page.mouse.move(grip["x"] + 10, grip["y"] - 90, steps=6)
    until(lambda: order(page) != waiting)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert order(page) == waiting
    assert not [url for _, url, _ in page.asked if url.endswith("/move")]
    page.context.close()


def test_one_is_cancelled_priority_is_set_and_the_queue_resumes(place: Place, waiting: list[str]) -> None:
    page = place.page("tab=queue")
    until(lambda: order(page) == waiting)
    row = page.get_by_role("list", name="Waiting, in order").locator("> li")
    row.nth(3).get_by_label("Priority").select_option("High")
    until(lambda: place.line()[0] == waiting[3])
    row.nth(0).locator("text=a white ball").wait_for()
    row.nth(1).get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
    until(lambda: place.rows("SELECT state FROM jobs WHERE id = ?", waiting[0]) == [("cancelled",)])
    page.get_by_role("button", name="Cancel all").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel all").click()
    until(lambda: place.line() == [])
    page.get_by_role("button", name="Resume").click()
    until(lambda: not place.get("system")["paused"])
    page.context.close()


def test_delete_is_undone(place: Place) -> None:
    page = place.page("tab=gallery")
    identity = place.batch["jobs"][0]["id"]
    tile = page.locator(f'.dlg-tile[data-key="{identity}"]')
    tile.wait_for()
    before = page.locator(".dlg-tile").count()
    tile.hover()
    tile.get_by_role("button", name="Delete").click()
    until(lambda: page.locator(".dlg-tile").count() == before - 1)
    assert place.rows("SELECT deleted != '' FROM jobs WHERE id = ?", identity) == [(1,)]
    assert not list(place.root.glob(f"*-{identity}"))
    page.get_by_role("button", name="Undo").click()
    tile.wait_for()
    assert place.rows("SELECT deleted FROM jobs WHERE id = ?", identity) == [("",)]
    assert list(place.root.glob(f"*-{identity}/export/model.glb"))
    page.context.close()


def test_favourites_and_words_filter_and_the_url_keeps_it(place: Place) -> None:
    page = place.page("tab=gallery")
    tile = page.locator(f'.dlg-tile[data-key="{place.formed}"]')
    tile.hover()
    tile.get_by_role("button", name="Favourite").click()
    until(lambda: place.rows("SELECT favourite FROM jobs WHERE id = ?", place.formed) == [(1,)])
    page.get_by_role("button", name="Favourites").click()
    until(lambda: [one.get_attribute("data-key") for one in page.locator(".dlg-tile").all()] == [place.formed])
    page.reload()
    until(lambda: [one.get_attribute("data-key") for one in page.locator(".dlg-tile").all()] == [place.formed])
    page.get_by_label("Search prompts").fill("zebra")
    page.get_by_role("heading", name="Nothing found").wait_for()
    page.get_by_role("button", name="Show all").click()
    until(lambda: page.locator(".dlg-tile").count() >= 3)
    link = tile.get_by_role("link", name="Use these settings").get_attribute("href")
    assert httpx.URL(link).params["prompt"] == "a red mushroom with a white stem"
    assert httpx.URL(link).params["recipe"] == "oracle"
    page.context.close()


def test_again_is_the_same_request_with_another_seed(place: Place) -> None:
    place.post("queue/pause")
    page = place.page("tab=gallery")
    tile = page.locator(f'.dlg-tile[data-key="{place.formed}"]')
    tile.hover()
    tile.get_by_role("button", name="Again with a new seed").click()
    (again,) = until(place.line)
    first, second = place.get(f"jobs/{place.formed}"), place.get(f"jobs/{again}")
    assert second["settings"] == first["settings"] == SEEN
    assert (second["recipe"], second["prompt"]) == (first["recipe"], first["prompt"]) and second["seed"] != first[
        "seed"
    ]
    place.post(f"jobs/{again}/cancel")
    place.post("queue/resume")
    page.context.close()


def test_two_are_chosen_and_their_views_turn_together(place: Place) -> None:
    page = place.page("tab=gallery")
    ids = [job["id"] for job in place.batch["jobs"]]
    for identity in ids:
        page.locator(f'.dlg-tile[data-key="{identity}"]').hover()
        page.locator(f'.dlg-tile[data-key="{identity}"] input').check(force=True)
    page.get_by_role("button", name="Compare").click()
    page.wait_for_function(
        "document.querySelectorAll('dl-compare .dlp-canvas[data-view-state=\"shown\"]').length === 2"
    )
    cameras = "document.querySelector('dl-compare').columns.map((one) => one.stage.viewer.camera())"
    before = page.evaluate(cameras)
    canvas = page.locator("dl-compare canvas").nth(1).bounding_box()
    page.mouse.move(canvas["x"] + 100, canvas["y"] + 150)
    page.mouse.down()
    page.mouse.move(canvas["x"] + 190, canvas["y"] + 180, steps=6)
    page.mouse.up()
    first, second = page.evaluate(cameras)
    assert abs(second["azimuth"] - before[1]["azimuth"]) > 10
    for name in ("azimuth", "elevation", "distance"):
        assert first[name] == pytest.approx(second[name], abs=1e-6)
    removed = page.locator("dl-compare .dlc-diff del").all_inner_texts()
    added = page.locator("dl-compare .dlc-diff ins").all_inner_texts()
    assert any("kind: sds" in one for one in removed) and any("kind: csd" in one for one in added)
    assert page.wrong == []
    page.context.close()


def test_the_lab_shows_its_figures_and_hands_them_over(place: Place) -> None:
    page = place.page(f"tab=lab&batch={place.batch['batch']}")
    page.wait_for_selector(".dll-cell")
    assert page.locator(".dll-name").all_inner_texts() == ["sds", "csd"]
    last = {job["recipe"]: place.get(f"jobs/{job['id']}/metrics")["points"][-1] for job in place.batch["jobs"]}
    page.get_by_role("button", name="Loss").click()
    shown = page.locator(".dll-table tbody tr td:first-child").all_inner_texts()
    assert shown == sorted(last, key=lambda name: last[name]["loss"])
    with page.expect_download() as taken:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(taken.value.path()).read_text())))
    assert {row["Name" if "Name" in row else "name"]: float(row["loss"]) for row in rows} == {
        name: one["loss"] for name, one in last.items()
    }
    with page.expect_download() as taken:
        page.get_by_role("button", name="JSON").click()
    whole = json.loads(Path(taken.value.path()).read_text())
    assert [job["points"] for job in whole["jobs"]] == [
        place.get(f"jobs/{job['id']}/metrics")["points"] for job in whole["jobs"]
    ]
    page.context.close()


def test_the_lab_submits_what_was_chosen(place: Place) -> None:
    place.post("queue/pause")
    page = place.page("tab=lab")
    page.get_by_label("Prompt").fill("a blue ball")
    page.get_by_label("Steps").fill("3")
    page.get_by_text("Seeds", exact=True).click()
    page.locator(".dll-chips label", has_text="2").click()
    page.get_by_role("button", name="Run side by side").click()
    page.wait_for_url("**batch=*")
    batch = re.search(r"batch=(\w+)", page.url)[1]  # type: ignore[index]
    page.wait_for_selector(".dll-cell")
    made = place.rows("SELECT prompt, seed FROM jobs WHERE batch = ? ORDER BY place", batch)
    assert made == [("a blue ball", 0), ("a blue ball", 1)]
    page.get_by_role("button", name="Cancel all").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel all").click()
    until(lambda: {row[0] for row in place.rows("SELECT state FROM jobs WHERE batch = ?", batch)} == {"cancelled"})
    place.post("queue/resume")
    page.context.close()


@pytest.mark.parametrize("scheme, width", [("light", 1440), ("dark", 375)])
def test_nobody_is_kept_out_and_nothing_leaves_the_machine(place: Place, scheme: str, width: int) -> None:
    axe = os.environ.get("DREAMLAB_AXE")
    if not axe:
        pytest.skip("needs axe-core: DREAMLAB_AXE names its axe.min.js")
    ids = ",".join(job["id"] for job in place.batch["jobs"])
    tabs = [
        f"tab=watch&job={place.formed}",
        "tab=queue",
        "tab=gallery",
        f"tab=compare&ids={ids}",
        f"tab=lab&batch={place.batch['batch']}",
    ]
    for query in tabs:
        page = place.page(query, color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 860})
        name = re.match(r"tab=(\w+)", query)[1]  # type: ignore[index]
        page.wait_for_selector(f"dl-{name} h2")
        page.wait_for_timeout(1500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate(Path(axe).read_text())
        found = page.evaluate("(where) => axe.run(where, { resultTypes: ['violations'] })", f"dl-{name}")
        bad = [
            (one["id"], [node["target"] for node in one["nodes"]][:3])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert bad == [], (query, bad)
        assert all(url.startswith((place.url, "blob:", "data:")) for _, url, _ in page.asked)
        assert page.wrong == []
        page.context.close()
