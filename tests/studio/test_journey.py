# SPDX-License-Identifier: Apache-2.0
"""The whole way of somebody who has never seen the page, in a real browser on a real studio: type, watch it form, close
the page, lose the server and its worker by SIGKILL, come back by the link, try a second rule on it, compare, write and
open files, texture a mesh of one's own. Pictures of the page are kept where DREAMLAB_SHOTS names a folder."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trimesh

from tests.export.test_glb import issues
from tests.studio.chromium import chromium
from tests.studio.serving import Server, until

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]
PROMPT = "a red mushroom with a white stem"
PATIENCE_MS = 300_000
SHOTS = os.environ.get("DREAMLAB_SHOTS")


@dataclass
class Visit:
    """Somebody with a browser; the studio behind it may die and be started again."""

    browser: Any
    root: Path
    server: Server
    wrong: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    shots: int = 0

    def page(self, query: str = "", **more: Any) -> Any:
        page = self.browser.new_context(viewport={"width": 1440, "height": 900}, **more).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(f"{self.server.url}/{query}")
        return page

    def shot(self, page: Any, name: str = "") -> None:
        """For the documentation and the film; none is needed for the test."""
        if SHOTS:
            self.shots += 1
            page.screenshot(path=f"{SHOTS}/{name or f'film-{self.shots:04d}'}.png")

    def row(self, job: str) -> dict[str, Any]:
        """As anybody reads it from the queue's file."""
        with sqlite3.connect(f"file:{self.root}/.jobs/queue.sqlite?mode=ro", uri=True) as db:
            db.row_factory = sqlite3.Row
            return dict(db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone())

    def worker_pids(self) -> list[int]:
        with sqlite3.connect(f"file:{self.root}/.jobs/queue.sqlite?mode=ro", uri=True) as db:
            return [pid for (pid,) in db.execute("SELECT pid FROM workers")]

    def events(self, job: str, kind: str) -> list[dict[str, Any]]:
        (path,) = self.root.glob(f"*-{job}/events.jsonl")
        return [event for line in path.read_text().splitlines() if (event := json.loads(line))["kind"] == kind]

    def succeeded(self, job: str) -> bool:
        state = self.row(job)["state"]
        assert state in ("queued", "running", "succeeded"), self.row(job)
        return bool(state == "succeeded")


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    root = tmp_path_factory.mktemp("journey") / "runs"
    with chromium() as browser:
        one = Visit(browser, root, Server(root, page=True))
        try:
            yield one
        finally:
            one.server.stop()


def job_of(page: Any) -> str:
    page.wait_for_url("**tab=watch**job=**")
    return str(page.evaluate("new URL(location.href).searchParams.get('job')"))


def drawn(page: Any, selector: str = "dl-watch canvas") -> bool:
    """Whether a canvas shows more than one colour."""
    script = """(selector) => {
      const canvas = document.querySelector(selector);
      if (!canvas || !canvas.width) return false;
      const copy = new OffscreenCanvas(64, 64), pen = copy.getContext('2d');
      pen.drawImage(canvas, 0, 0, 64, 64);
      const data = pen.getImageData(0, 0, 64, 64).data;
      let red = 0;
      for (let i = 0; i < data.length; i += 4) red += data[i] > 120 && data[i + 1] < 90 && data[i + 3] > 200;
      return red > 40;
    }"""
    return bool(page.evaluate(script, selector))


def axe(page: Any) -> list[str]:
    """Serious findings of axe-core, where it is at hand."""
    program = os.environ.get("DREAMLAB_AXE")
    if not program:
        return []
    page.evaluate(Path(program).read_text("utf-8") + "; 0")  # past the page's own policy
    found = page.evaluate("async () => (await axe.run()).violations")
    return [f"{v['id']}: {v['nodes'][0]['target']}" for v in found if v["impact"] in ("serious", "critical")]


def test_the_way_of_a_newcomer(visit: Visit, tmp_path: Path) -> None:
    first = made_and_watched(visit)
    second = branched(visit, first)
    compared(visit, first, second)
    file = exported(visit, first, tmp_path)
    textured(visit, file)
    assert visit.wrong == []
    assert {url for url in visit.asked if not url.startswith(("data:", "blob:", "http://127.0.0.1:"))} == set()


def made_and_watched(visit: Visit) -> str:
    """The one button; frames arrive; the page is closed, server and worker are killed; the link shows it go on."""
    page = visit.page()
    page.wait_for_selector("dl-create.first")
    visit.shot(page, "studio-first")
    page.fill("#dl-prompt", "")
    for end in (12, 22, len(PROMPT)):
        page.fill("#dl-prompt", PROMPT[:end])
        visit.shot(page)
    page.keyboard.press("Control+Enter")
    job = job_of(page)
    strip = page.locator("dl-watch [role=radio] img, dl-watch .dlp-strip img")
    until(lambda: strip.count() >= 2)
    until(lambda: drawn(page))
    for _ in range(12 if SHOTS else 1):
        visit.shot(page)
        page.wait_for_timeout(800 if SHOTS else 50)
    visit.shot(page, "studio-watch")
    page.context.close()
    before = until(lambda: visit.events(job, "checkpoint"))
    assert not visit.succeeded(job), "too quick to be killed"
    visit.server.kill()
    for pid in visit.worker_pids():
        os.kill(pid, signal.SIGKILL)
    visit.server = Server(visit.root, page=True)
    page = visit.page(f"?tab=watch&job={job}")
    page.wait_for_selector("dl-watch h1, dl-watch h2")
    until(lambda: visit.succeeded(job))
    page.get_by_text("Finished", exact=True).first.wait_for()
    until(lambda: drawn(page))
    for _ in range(4 if SHOTS else 1):
        visit.shot(page)
        page.wait_for_timeout(700 if SHOTS else 50)
    visit.shot(page, "studio-done")
    assert visit.row(job)["attempt"] == 2
    steps = [event["global_step"] for event in visit.events(job, "metrics")]
    kept = int(before[-1]["path"].removeprefix("step_"))
    again = [later for earlier, later in itertools.pairwise(steps) if later <= earlier]
    assert all(step > kept for step in again), "it began anew instead of going on from its checkpoint"
    page.context.close()
    return job


def branched(visit: Visit, first: str) -> str:
    """Another rule on what is there."""
    page = visit.page(f"?tab=watch&job={first}")
    page.get_by_role("button", name="Branch").click()
    box = page.get_by_role("dialog")
    box.get_by_label("Steps from there").fill("30")
    box.get_by_label("Settings").fill("stages.1.terms.0.system=csd")
    visit.shot(page, "studio-branch")
    box.get_by_role("button", name="Branch").click()
    page.wait_for_function(f"new URL(location.href).searchParams.get('job') !== '{first}'")
    second = job_of(page)
    until(lambda: visit.succeeded(second))
    (recipe,) = visit.root.glob(f"*-{second}/recipe.yaml")
    assert "csd" in recipe.read_text()
    tree = page.locator(".dl-tree a")
    until(lambda: tree.count() >= 1)
    page.context.close()
    return second


def compared(visit: Visit, first: str, second: str) -> None:
    page = visit.page(f"?tab=compare&ids={first},{second}")
    until(lambda: page.locator("dl-compare canvas").count() == 2)
    until(lambda: page.locator("dl-compare .dlc-diff ins").count() >= 1)
    assert any("csd" in text for text in page.locator("dl-compare .dlc-diff ins").all_inner_texts())
    page.wait_for_timeout(1500)
    visit.shot(page, "studio-compare")
    page.context.close()


def exported(visit: Visit, job: str, place: Path) -> Path:
    """Written again, downloaded by the button, and opened by the standard's own parser."""
    page = visit.page(f"?tab=export&job={job}", accept_downloads=True)
    page.get_by_role("button", name="Write files").click()
    page.get_by_text("Written and read back.").wait_for()
    visit.shot(page, "studio-export")
    with page.expect_download() as download:
        page.locator("a[download][href*='model.glb']").first.click()
    file = place / "model.glb"
    download.value.save_as(file)
    if os.environ.get("DREAMLAB_GLTF_VALIDATOR"):  # without it trimesh is the one judge
        found = issues(file.read_bytes(), place)
        assert found["numErrors"] == found["numWarnings"] == 0, found
    assert len(trimesh.load(file, force="mesh").faces) > 100
    page.context.close()
    return file


def textured(visit: Visit, file: Path) -> None:
    """A mesh of one's own: the geometry that was given comes back with other colours."""
    page = visit.page("?tab=create&mode=mesh")
    page.locator("input[type=file]").first.set_input_files(file)
    page.wait_for_selector("dl-create canvas")
    page.fill("#dl-prompt", "a blue mushroom with a yellow stem")
    visit.shot(page, "studio-texture")
    page.keyboard.press("Control+Enter")
    job = job_of(page)
    until(lambda: visit.succeeded(job))
    page.context.close()
    (made,) = visit.root.glob(f"*-{job}/painted/*.glb")
    was, now = (trimesh.load(each, force="mesh") for each in (file, made))
    assert was.vertices.tobytes() == now.vertices.tobytes() and was.faces.tobytes() == now.faces.tobytes()


@pytest.mark.parametrize("tab", ["create", "watch", "queue", "gallery", "lab", "export", "compare"])
def test_nothing_serious_is_found_by_axe(visit: Visit, tab: str) -> None:
    if not os.environ.get("DREAMLAB_AXE"):
        pytest.skip("needs axe-core: DREAMLAB_AXE names its axe.min.js")
    for scheme in ("light", "dark"):
        page = visit.page(f"?tab={tab}", color_scheme=scheme)
        page.wait_for_timeout(1500)
        assert axe(page) == []
        visit.shot(page, f"studio-{tab}-{scheme}")
        page.set_viewport_size({"width": 375, "height": 760})
        page.wait_for_timeout(600)
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        visit.shot(page, f"studio-{tab}-{scheme}-375")
        page.context.close()
