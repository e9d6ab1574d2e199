# SPDX-License-Identifier: Apache-2.0
"""The gallery of more runs than a screen holds, in a real browser: the real index of real folders answers, and what is
seen is held against the folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from benchmarks.index import folders
from dreamlab.studio.studio import Studio
from tests.studio import serving
from tests.studio.chromium import chromium, shot

pytestmark = pytest.mark.browser
RUNS = 150
PATIENCE_MS = 120_000
# The frame that gradio gives the panel, without gradio.
FRAME = """<!doctype html><html data-tab=gallery><head><meta charset=utf-8>
<link rel=stylesheet href=/static/studio.css><link rel=stylesheet href=/static/shell.css>
<link rel=stylesheet href=/static/panels.css></head>
<body class=dl-app><dl-gallery></dl-gallery><script type=module src=/static/gallery.js></script></body></html>"""
SEEN = "[...document.querySelectorAll('.dlg-tile')].map((one) => one.dataset.key)"
# The places of all tiles, row by row; a skipped one is laid out when it is asked for.
ROWS = """() => {
  const rows = new Map();
  for (const one of document.querySelectorAll('.dlg-tile')) {
    const { top, left } = one.getBoundingClientRect();
    const row = Math.round(top + scrollY);
    rows.set(row, [...(rows.get(row) ?? []), Math.round(left)]);
  }
  return [...rows.values()];
}"""


@dataclass
class Many:
    root: Path
    page: Any

    def newest_first(self) -> list[str]:
        """As the folders themselves say."""
        specs = [json.loads(path.read_text()) for path in self.root.glob("*/spec.json")]
        return [spec["id"] for spec in sorted(specs, key=lambda spec: (spec["created"], spec["id"]), reverse=True)]

    def full(self, columns: int) -> bool:
        """Every row but the last; what is skipped has its place at the next frame."""
        return {len(row) for row in self.page.evaluate(ROWS)[:-1]} == {columns}

    def to_the_end(self) -> None:
        def more() -> bool:
            self.page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
            return bool(self.page.evaluate("document.querySelector('dl-gallery').cursor === null"))

        serving.until(more)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    root = tmp_path_factory.mktemp("many") / "runs"
    folders(root, RUNS)
    studio: Studio = serving.studio(root)
    client: TestClient = serving.client(studio)

    def answer(route: Any) -> None:
        address = urlsplit(route.request.url)
        if address.path == "/":
            return route.fulfill(body=FRAME, content_type="text/html")
        if address.path == "/v1/events":
            return route.fulfill(body="", content_type="text/event-stream")
        told = client.request(route.request.method, f"{address.path}?{address.query}", content=route.request.post_data)
        return route.fulfill(
            status=told.status_code, body=told.content, headers={"Content-Type": told.headers["content-type"]}
        )

    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.route("**/*", answer)
        page.goto("http://127.0.0.1:7860/?tab=gallery")
        page.wait_for_selector(".dlg-tile")
        yield Many(root, page)


def test_all_of_them_come_in_order_in_rows_without_a_gap(many: Many) -> None:
    many.to_the_end()
    assert many.page.evaluate(SEEN) == many.newest_first()
    for width, columns in ((1280, 5), (1440, 5), (900, 3), (375, 2)):
        many.page.set_viewport_size({"width": width, "height": 900})
        serving.until(lambda columns=columns: many.full(columns))
        rows = many.page.evaluate(ROWS)
        assert len(rows) == -(-RUNS // columns), width
        assert len({tuple(row) for row in rows[:-1]}) == 1, "columns are one below the other"
        assert many.page.evaluate("document.documentElement.scrollWidth") <= width
    shot(many.page, "gallery")
    many.page.set_viewport_size({"width": 1280, "height": 900})


def test_what_is_far_away_is_not_drawn_and_takes_its_room(many: Many) -> None:
    many.to_the_end()
    many.page.evaluate("window.scrollTo(0, 0)")
    drawn = """() => [...document.querySelectorAll('.dlg-tile')].map(
      (one) => one.checkVisibility({ contentVisibilityAuto: true }))"""
    serving.until(lambda: many.page.evaluate(drawn)[0] and not many.page.evaluate(drawn)[-1])
    held = "[...document.querySelectorAll('.dlg-tile')].map((one) => one.querySelectorAll('img, button').length)"
    serving.until(lambda: many.page.evaluate(held)[0] and not many.page.evaluate(held)[-1])
    assert all("spots" in words for words in many.page.locator(".dlg-prompt").all_text_contents()), (
        "it can be searched for"
    )
    height = many.page.evaluate("document.documentElement.scrollHeight")
    many.page.add_style_tag(content=".dlg-grid { content-visibility: visible !important }")
    assert many.page.evaluate("document.documentElement.scrollHeight") == pytest.approx(height, rel=0.02)
    many.page.evaluate("document.head.lastElementChild.remove()")


def test_a_new_run_comes_in_above_and_a_deleted_one_closes_its_gap(many: Many) -> None:
    """Who looks at a tile keeps it: its element, and the focus on it."""
    many.to_the_end()
    third = many.newest_first()[2]
    many.page.evaluate("(key) => document.querySelector(`.dlg-tile[data-key='${key}'] a`).focus()", third)
    late = many.root / "a-late-one-zzzzzzzzzzzz"
    source = next(many.root.glob("*-000000000000"))
    late.mkdir()
    for name in ("recipe.yaml", "state.json", "events.jsonl"):
        (late / name).write_bytes((source / name).read_bytes())
    spec = {"id": "zzzzzzzzzzzz", "prompt": "a late one", "created": "2027-01-01T00:00:00.000+00:00", "command": []}
    (late / "spec.json").write_text(json.dumps(spec))

    def there() -> bool:
        many.page.evaluate("document.querySelector('dl-gallery').refresh()")
        return bool(many.page.evaluate(SEEN)[0] == "zzzzzzzzzzzz")

    serving.until(there)
    assert many.page.evaluate(SEEN) == many.newest_first()
    focused = "document.activeElement.closest('.dlg-tile')?.dataset.key"
    assert many.page.evaluate(focused) == third
    serving.until(lambda: many.full(5))
    gone = many.newest_first()[7]
    many.page.evaluate(
        "(id) => { const g = document.querySelector('dl-gallery'); g.gone(g.runs.find((one) => one.id === id)); }", gone
    )
    assert many.page.evaluate(SEEN) == [each for each in many.newest_first() if each != gone]
    serving.until(lambda: many.full(5))
