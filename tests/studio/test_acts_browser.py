# SPDX-License-Identifier: Apache-2.0
"""What people do with a job, in a real browser on a studio with a worker: stop, go on, retry, look at a motion at any
moment, hold scenes of several kinds against each other. What is seen is held against the run's folder and the queue's
table, read past the studio."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trimesh

from tests.studio.chromium import chromium, shot
from tests.studio.serving import PROMPT, TINY, Json, Server, body, ended, until

pytestmark = pytest.mark.browser
PATIENCE_MS = 120_000
LONG = 100_000  # steps: it ends when it is told to
ANY_SCENE = {path: value for path, value in TINY.items() if path != "stages.0.scene.count"}


@dataclass
class Acts:
    """A studio at work, with a browser before it."""

    server: Server
    browser: Any

    def page(self, query: str, width: int = 1280) -> Any:
        page = self.browser.new_context(viewport={"width": width, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto(f"{self.server.url}/?{query}")
        return page

    def row(self, job: str) -> Json:
        with sqlite3.connect(f"file:{self.server.root}/.jobs/queue.sqlite?mode=ro", uri=True) as db:
            db.row_factory = sqlite3.Row
            return dict(db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone())

    def folder(self, job: str) -> Path:
        (found,) = self.server.root.glob(f"*-{job}")
        return found

    def steps(self, job: str) -> list[int]:
        """Of the metrics, in the order in which they were written."""
        lines = (self.folder(job) / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [event["global_step"] for event in events if event["kind"] == "metrics"]

    def kept(self, job: str) -> list[int]:
        return sorted(int(path.name.removeprefix("step_")) for path in (self.folder(job) / "ckpt").glob("step_*"))


@pytest.fixture(scope="module")
def acts(at_work: Server) -> Iterator[Acts]:
    with chromium() as browser:
        yield Acts(at_work, browser)


def posted(acts: Acts, path: str, asked: Json) -> Json:
    answer = httpx.post(f"{acts.server.url}/v1/{path}", json=asked, timeout=60)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def test_a_run_is_cancelled_retried_stopped_and_kept_and_continued(acts: Acts) -> None:
    """One job, by the buttons alone; what it had made is never made again, and its child does not change it."""
    many = {"steps": LONG, "keeping.checkpoint": 20, "keeping.log": 5, "keeping.preview": LONG}
    job = posted(acts, "jobs", body(settings=many))["id"]
    page = acts.page(f"tab=watch&job={job}")
    until(lambda: acts.row(job)["state"] == "running" and acts.kept(job))
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
    until(lambda: acts.row(job)["state"] == "cancelled")
    made = acts.kept(job)[-1]
    page.get_by_role("button", name="Retry").click()
    until(lambda: acts.row(job)["attempt"] == 2 and acts.kept(job)[-1] > made)
    page.get_by_role("button", name="Stop and keep").click()
    until(lambda: acts.row(job)["state"] == "succeeded", 240)
    stopped = acts.row(job)["stopped_at"]
    page.locator(".dlw-now div", has_text="Kept at step").locator("dd", has_text=f"{stopped} of {LONG}").wait_for()
    steps = acts.steps(job)
    assert steps == sorted(set(steps)) and made < stopped < LONG, "it went on, and did not begin anew"
    model = acts.folder(job) / "export" / "model.glb"
    before = model.read_bytes()
    page.wait_for_selector('.dlp-canvas[data-view-state="shown"]')
    shot(page, "kept")
    page.get_by_role("button", name="Continue").click()
    box = page.get_by_role("dialog")
    box.get_by_label("Steps more").fill("3")
    box.get_by_role("button", name="Continue").click()
    page.wait_for_url(lambda url: "job=" in url and job not in url)
    child = page.evaluate("new URL(location.href).searchParams.get('job')")
    done = ended(acts.server.url, child, 240)
    assert (done["state"], done["kind"], done["parent"]) == ("succeeded", "continue", job)
    assert acts.kept(child)[-1] == stopped + 3 and model.read_bytes() == before
    page.locator(".dl-tree a").first.wait_for()
    assert page.wrong == []
    page.context.close()


def test_a_motion_is_looked_at_at_any_moment(acts: Acts) -> None:
    """The slider's place is the view's time, and another moment is another picture."""
    settings = {**TINY, "steps": 3, "stages.0.scene.count": 300, "keeping.preview": 100}
    asked = {"prompt": f"a rocking {PROMPT[2:]}", "recipe": "fit-gaussians4d", "settings": settings}
    job = posted(acts, "jobs", asked)["id"]
    assert ended(acts.server.url, job, 240)["state"] == "succeeded"
    page = acts.page(f"tab=watch&job={job}")
    slider = page.get_by_role("slider", name="Time in the animation")
    slider.wait_for()
    (length,) = {animation["max"] for animation in animations(acts.folder(job) / "export" / "model.glb")}
    assert float(slider.get_attribute("max")) == pytest.approx(length, rel=1e-3)
    pause = page.get_by_role("button", name="Pause")
    if pause.count():
        pause.click()
    page.get_by_role("button", name="Play").wait_for()
    viewer = "document.querySelector('dl-watch').stage.viewer"
    # Frames go by first: three.js poses a skeleton once in each, so that two looks within one may be of one moment.
    shown = f"""async () => {{
      const frame = () => new Promise(requestAnimationFrame);
      await frame();
      await frame();
      const {{ data }} = {viewer}.pixels();
      let sum = 0;
      for (let i = 0; i < data.length; i += 97) sum = (sum * 31 + data[i]) % 2147483647;
      return sum;
    }}"""
    # What the view still loads (its light, the size of its place) is there once three looks are the same.
    until(lambda: len({page.evaluate(shown) for _ in range(3)}) == 1)
    seen = []
    for share in (0.0, 0.25, 0.0):
        slider.fill(str(share * length))
        seen.append(page.evaluate(shown))
    assert seen[0] == seen[2] != seen[1], "the same moment is the same picture, another is not"
    slider.focus()
    before = float(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) > before
    shot(page, "motion")
    assert page.wrong == []
    page.context.close()


def animations(file: Path) -> list[Json]:
    """Bounds of the times of a GLB's clips, as its own header says them."""
    data = file.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    document = json.loads(data[20 : 20 + length])
    inputs = {each["input"] for clip in document["animations"] for each in clip["samplers"]}
    return [{"max": round(document["accessors"][place]["max"][0], 6)} for place in inputs]


def test_the_lab_holds_scenes_of_other_kinds_against_the_truth(acts: Acts) -> None:
    """A field and tetrahedra form to their end beside each other; each has its files and its nearness."""
    job = {"prompt": PROMPT, "recipe": "sds", "settings": {**ANY_SCENE, "steps": 4, "export.resolution": 32}}
    made = posted(acts, "batches", {"job": job, "cross": {"stages.0.scene": ["field", "dmtet"]}})
    page = acts.page(f"tab=lab&batch={made['batch']}")
    page.wait_for_selector(".dll-cell")
    assert page.get_by_role("radio", name="Scenes").is_checked(), "the form says what this batch was asked"
    assert page.locator(".dll-chips label:has(input:checked)").all_inner_texts() == ["Field", "Surface"]
    assert page.get_by_role("spinbutton", name="Steps").input_value() == "4"
    for each in made["jobs"]:
        assert ended(acts.server.url, each["id"], 300)["state"] == "succeeded"
    until(lambda: page.locator('.dll-cell [data-state="succeeded"]').count() == 2)
    assert page.locator(".dll-name").all_inner_texts() == ["field", "dmtet"]
    for each in made["jobs"]:
        recipe = (acts.folder(each["id"]) / "recipe.yaml").read_text()
        assert f"kind: {each['values']['stages.0.scene']}" in recipe
        assert len(trimesh.load(acts.folder(each["id"]) / "export" / "model.glb", force="mesh").faces) > 50
    curves = page.locator(".dll-curves [data-series] path")
    until(lambda: curves.count() >= 4)  # two of the loss, two of the nearness
    shot(page, "lab")
    assert page.wrong == []
    page.context.close()
