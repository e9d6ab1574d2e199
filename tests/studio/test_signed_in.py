# SPDX-License-Identifier: Apache-2.0
"""The page of a studio with users, in a real browser: who is not signed in sees one form, who is makes a job, and
another owner sees nothing of it, not by its link either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from dreamlab.studio.auth import add_user
from tests.studio.chromium import chromium, shot
from tests.studio.serving import PASSWORDS, basic, serving

pytestmark = pytest.mark.browser
PATIENCE_MS = 120_000


def visitor(browser: Any, address: str) -> Any:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.goto(address)
    return page


def sign_in(page: Any, name: str, password: str) -> None:
    page.fill("input[name=name]", name)
    page.fill("input[name=password]", password)
    page.click("button")


def test_a_page_with_users_belongs_to_whoever_signs_in(tmp_path: Path) -> None:
    users = tmp_path / "users"
    for name, password in PASSWORDS.items():
        add_user(users, name, password)
    with serving(tmp_path / "runs", "--auth", str(users), page=True, work=False) as server, chromium() as browser:
        for path in ("/", "/config", "/gradio_api/heartbeat/x", "/v1/jobs"):
            assert httpx.get(server.url + path).status_code in (303, 401), path
        ann = visitor(browser, f"{server.url}/?tab=create&prompt=a+green+pear")
        assert "/login" in ann.url and ann.locator("dl-shell").count() == 0
        sign_in(ann, "ann", "not hers at all")
        ann.wait_for_selector("[role=alert]")
        sign_in(ann, "ann", PASSWORDS["ann"])
        ann.wait_for_selector("dl-shell nav a")
        ann.wait_for_function("document.querySelector('#dl-prompt').value === 'a green pear'")  # where she was going to
        ann.click(".act .dl-btn")
        ann.wait_for_url("**tab=watch**job=**")
        job = ann.evaluate("new URL(location.href).searchParams.get('job')")
        ann.wait_for_selector("dl-watch .dlw-title:has-text('a green pear')")
        (mine,) = httpx.get(f"{server.url}/v1/jobs", headers={"Authorization": basic("ann")}).json()["jobs"]
        assert (mine["id"], mine["state"], mine["owner"]) == (job, "queued", "ann")
        bob = visitor(browser, f"{server.url}/?tab=watch&job={job}")
        sign_in(bob, "bob", PASSWORDS["bob"])
        bob.get_by_role("heading", name="No such run here").wait_for()
        for tab, title in (("queue", "The queue is empty"), ("gallery", "Nothing made yet")):
            bob.click(f"nav a[href^='/?tab={tab}']")
            bob.get_by_role("heading", name=title).wait_for()
            assert "pear" not in bob.inner_text("body")
        shot(bob, "signed-in")
        bob.get_by_role("button", name="Sign out bob").click()
        bob.wait_for_url("**/login**")
        bob.goto(f"{server.url}/?tab=queue")
        assert "/login" in bob.url and bob.locator("dl-shell").count() == 0
        ann.click("nav a[href^='/?tab=queue']")
        ann.wait_for_selector("dl-queue :text('a green pear')")
        assert ann.wrong == bob.wrong == []
