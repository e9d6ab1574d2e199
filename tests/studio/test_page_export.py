# SPDX-License-Identifier: Apache-2.0
"""Export in a real browser: its figures are the report's, a second export is a job that a real worker does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trimesh

from tests.studio.chromium import chromium
from tests.studio.serving import TINY, Json, Server, body, ended, until

pytestmark = pytest.mark.browser
PATIENCE_MS = 120_000


@dataclass
class Finished:
    """A studio with a finished run, and a browser before it."""

    url: str
    folder: Path
    id: str
    browser: Any

    def page(self, query: str) -> Any:
        page = self.browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto(f"{self.url}/?{query}")
        return page

    def report(self) -> Json:
        return json.loads((self.folder / "export" / "report.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def finished(at_work: Server) -> Iterator[Finished]:
    more = {**TINY, "steps": 12, "stages.0.scene.count": 300, "size": 24, "export.resolution": 32}
    with chromium() as browser:
        made = httpx.post(f"{at_work.url}/v1/jobs", json=body(settings=more)).raise_for_status().json()
        assert ended(at_work.url, made["id"])["state"] == "succeeded"
        (folder,) = at_work.root.glob(f"*-{made['id']}")
        yield Finished(at_work.url, folder, made["id"], browser)


def test_the_figures_are_the_reports_and_the_file_is_the_runs(finished: Finished, tmp_path: Path) -> None:
    page = finished.page("tab=export")
    page.click(f".dl-card[href*='{finished.id}']")
    page.wait_for_url(f"**job={finished.id}**")
    page.wait_for_selector(".dl-figures")
    listed = """() => [...document.querySelectorAll('.dl-figures div')].map(
      (each) => [...each.children].map((one) => one.textContent))"""
    told = dict(page.evaluate(listed))
    report = finished.report()
    assert told["Silhouette against the scene"] == f"{100 * report['check']['silhouette_iou']:.1f} %"
    assert (
        told["Triangles"] == f"{report['mesh']['triangles']:,}"
        and told["Vertices"] == f"{report['mesh']['vertices']:,}"
    )
    assert told["Watertight"].startswith("yes" if report["mesh"]["watertight"] else "no")
    with page.expect_download() as taken:
        page.click("[aria-label='Download export/model.glb']")
    taken.value.save_as(tmp_path / "model.glb")
    assert (tmp_path / "model.glb").read_bytes() == (finished.folder / "export/model.glb").read_bytes()
    assert page.wrong == []


def test_a_second_export_is_a_job_that_is_followed_to_its_files(finished: Finished, tmp_path: Path) -> None:
    page = finished.page(f"tab=export&job={finished.id}")
    page.wait_for_selector(".dl-format")
    page.fill("input[type=number] >> nth=0", "5")  # fewer triangles than there may be
    page.click("text=Write files")
    page.wait_for_selector(".dl-export-fields .dl-error:not(:empty)")
    page.fill("input[type=number] >> nth=0", "300")
    page.fill("input[placeholder='as it is']", "2.5")
    page.select_option(".dl-export-fields select >> nth=2", "bottom")
    page.click(".dl-format:has-text('stl')")
    page.click("text=Write files")
    page.wait_for_url("**export=**")
    job = page.url.rpartition("export=")[2]
    page.reload()  # it goes on by itself, and is followed again
    page.wait_for_selector(".dl-notice.good")
    assert ended(finished.url, job)["kind"] == "export"
    names = page.locator(".dl-files strong")
    until(lambda: {"model.glb", "model.stl"} <= set(names.all_inner_texts()))  # the list comes after the word of it
    with page.expect_download() as taken:
        page.click("[aria-label='Download export/model.glb']")
    taken.value.save_as(tmp_path / "model.glb")
    mesh = trimesh.load(tmp_path / "model.glb", force="mesh")
    assert len(mesh.faces) <= 300
    assert mesh.bounds[1][1] - mesh.bounds[0][1] == pytest.approx(2.5, rel=1e-3)  # metres, y up
    assert mesh.bounds[0][1] == pytest.approx(0.0, abs=1e-3)  # on its feet
    assert page.wrong == []


def test_a_run_that_is_not_there_leads_to_those_that_are(finished: Finished) -> None:
    page = finished.page("tab=export&job=aaaaaaaaaaaa")
    page.click("text=Choose a run")
    page.wait_for_selector(".dl-card")
    assert page.locator(f".dl-card[href*='{finished.id}']").count() == 1
