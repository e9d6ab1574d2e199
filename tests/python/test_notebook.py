# SPDX-License-Identifier: Apache-2.0
"""What a notebook is shown: HTML that is right, moves, holds no stranger's markup, and draws the asset in a real
browser without a server."""

from __future__ import annotations

import base64
import html.parser
import json
import os
import signal
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dreamlab
from dreamlab.core.files import write_json
from dreamlab.python import view
from dreamlab.python.notebook import clock, in_notebook
from dreamlab.run import train
from tests.conftest import TINY, threads
from tests.studio.chromium import chromium

ROOT = Path(__file__).parents[2]
EVIL = "a cup </iframe><script>alert(1)</script> & \"two\" 'words'"
VOID = {"img", "meta", "br"}


class Page(html.parser.HTMLParser):
    """Elements with their attributes, and the words; every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dreamlab.Run]:
    place = tmp_path_factory.mktemp("notebook")
    (place / "tiny.yaml").write_text(TINY)
    with threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = dreamlab.dream("a red mushroom", recipe=place / "tiny.yaml", out=place / "runs", progress=False)
    spec = made.path / "spec.json"
    write_json(spec, json.loads(spec.read_text()) | {"prompt": EVIL})  # a prior that knows all words would take it
    yield made


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_is_seen_to_form(kernel: list[str], tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    with threads(1):
        dreamlab.dream("a red mushroom", recipe=tmp_path / "tiny.yaml", out=tmp_path / "runs")
    pages = [Page(text) for text in kernel]
    assert pages[0].words == ["starting"] and pages[-1].words[0].startswith("finished in ")
    middle = pages[1:-1]
    assert [page.words[0].split(",")[0] for page in middle] == [
        "shape 2/8", "shape 4/8", "shape 6/8", "shape 8/8", "finer 2/4", "finer 4/4"
    ]  # fmt: skip
    assert all("it/s" in page.words[0] and " left" in page.words[0] and "loss " in page.words[0] for page in middle[1:])
    done = [float(attrs["aria-valuenow"]) for page in pages for attrs in page.of("div") if "aria-valuenow" in attrs]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 100
    strips = [page.of("img")[0]["src"] for page in middle if page.of("img")]
    assert strips and all(base64.b64decode(strip.partition(",")[2]).startswith(b"\x89PNG") for strip in strips)
    assert not pages[-1].of("img")  # the run itself is shown next


def test_a_run_that_stops_says_so(kernel: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    made = train.step

    def step(*given: Any) -> None:
        made(*given)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train, "step", step)
    with threads(1), pytest.raises(KeyboardInterrupt, match=r"stopped at step 1/12; go on with: dreamlab.open"):
        dreamlab.dream("a red mushroom", recipe=tmp_path / "tiny.yaml", out=tmp_path / "runs")
    assert Page(kernel[-1]).words[0].startswith("stopped after ")


def test_a_kernel_is_told_from_a_terminal(kernel: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: types.SimpleNamespace(config={}))
    assert not in_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert not in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook() and "IPython" not in sys.modules


def test_times_as_people_say_them() -> None:
    assert [clock(s) for s in (0, 59.4, 59.6, 61, 3599.4, 3600, 9000)] == [
        "0 s", "59 s", "1:00 min", "1:01 min", "59:59 min", "1:00 h", "2:30 h"
    ]  # fmt: skip


def test_a_run_is_shown_without_a_stranger_s_markup(finished: dreamlab.Run) -> None:
    text = finished._repr_html_()
    page = Page(text)
    assert not page.of("script") and EVIL in page.words and "succeeded at step 12" in page.words
    (frame,) = page.of("iframe")
    assert frame["sandbox"] == "allow-scripts" and len(text) < view.MOST
    assert "http:" not in frame["srcdoc"] and "https:" not in frame["srcdoc"]
    inner = Page(frame["srcdoc"])
    assert len(inner.of("script")) == 1 and EVIL not in frame["srcdoc"]


@pytest.mark.browser
def test_the_asset_is_drawn_by_a_browser_without_a_server(finished: dreamlab.Run, tmp_path: Path) -> None:
    """As a notebook shows it, in a frame of its own: not blank, turned by a drag, and nothing is asked of anybody."""
    place = tmp_path / "page.html"
    place.write_text(f"<!doctype html><body>{finished._repr_html_()}</body>", "utf-8")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 800, "height": 640})
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(place.as_uri())
        frame = page.frames[1]
        frame.wait_for_function("window.shown", timeout=60_000)
        told = frame.evaluate("window.shown")
        assert told["kind"] == "mesh" and told["triangles"] > 0, (told, wrong)
        drawn = frame.evaluate(
            "(async () => { const p = await view.pixels(); return [p.width, p.height, [...p.data]]; })()"
        )
        covered = sum(alpha > 128 for alpha in drawn[2][3::4]) / (drawn[0] * drawn[1])
        assert 0.01 < covered < 0.9
        before = frame.evaluate("view.camera().azimuth")
        box = page.locator("iframe").bounding_box()
        page.mouse.move(box["x"] + 300, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 380, box["y"] + 200, steps=4)
        page.mouse.up()
        assert abs(frame.evaluate("view.camera().azimuth") - before) > 5
    assert not wrong and all(url.startswith(("file:", "data:", "blob:", "about:")) for url in asked), asked


def test_what_is_too_large_is_a_picture(finished: dreamlab.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MOST", 1_000_000)
    text = finished._repr_html_()
    page = Page(text)
    assert not page.of("iframe") and len(text) < 1_000_000
    (picture,) = page.of("img")
    poster = (finished.path / "export" / "poster.png").read_bytes()
    assert base64.b64decode(picture["src"].partition(",")[2]) == poster


def test_a_run_without_an_asset_is_words(tmp_path: Path) -> None:
    from dreamlab.run.folder import Run

    run = Run.create(tmp_path, "x: 1\n", EVIL, [])
    page = Page(dreamlab.open(run.path)._repr_html_())
    assert "created at step 0" in page.words and not page.of("img") and not page.of("iframe")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_example_runs(kernel: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell, as a notebook does it; what it ends with can be shown. The file holds no output."""
    book = json.loads((ROOT / "examples" / "notebook.ipynb").read_text("utf-8"))
    assert book["nbformat"] == 4 and book["metadata"]["kernelspec"]["language"] == "python"
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "__main__"}
    with threads(1):
        for i, cell in enumerate(cells):
            exec(compile("".join(cell["source"]), f"cell {i}", "exec"), space)
    assert isinstance(space["run"], dreamlab.Run) and space["run"].state == "succeeded"
    assert len(dreamlab.runs("runs")) >= 2
    assert any("aria-valuenow" in text for text in kernel)
