# SPDX-License-Identifier: Apache-2.0
"""Two owners: what one has, the other can neither read, guess, list nor touch, and 404 does not tell that it is there.
Faults 36 and 37."""

from __future__ import annotations

import io
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from starlette.testclient import TestClient

from dreamlab.studio.api.all import V1
from tests.studio import serving
from tests.studio.conftest import Done
from tests.studio.serving import PASSWORDS, Json

NOBODY = "zzzzzzzzzzzz"
OF_A_JOB = [(each.method, each.path) for each in V1 if "{id}" in each.path and "uploads" not in each.path]


def said(client: TestClient, method: str, path: str, **more: object) -> tuple[int, Json]:
    reply = client.request(method, path, json={"steps": 1} if method == "POST" else None, **more)  # type: ignore[arg-type]
    return reply.status_code, reply.json()


@pytest.mark.parametrize("method,path", OF_A_JOB, ids=lambda value: str(value))
def test_another_s_job_is_as_one_that_nobody_has(done: Done, method: str, path: str) -> None:
    """Every endpoint there is that names a job or a run, word for word."""
    path = path.replace("{name*}", "export/model.glb") + ("?seconds=0" if path.endswith("events") else "")
    theirs, none = (said(done.bob, method, path.replace("{id}", identity)) for identity in (done.id, NOBODY))
    blank = re.compile(f"{done.id}|{NOBODY}")
    assert theirs[0] == none[0] and blank.sub("", str(theirs[1])) == blank.sub("", str(none[1]))
    assert theirs[0] in (404, 422) and done.id not in str(done.bob.get("/v1/jobs").json())


def test_their_job_is_as_it_was(done: Done) -> None:
    """After all of the above."""
    view = done.ann.get(f"/v1/jobs/{done.id}").json()
    assert view["state"] == "succeeded" and not view["favourite"] and Path(view["folder"]).is_dir()


def test_lists_counts_and_streams_are_of_one_s_own(done: Done) -> None:
    assert done.id in [job["id"] for job in done.ann.get("/v1/jobs").json()["jobs"]]
    assert done.id in [run["id"] for run in done.ann.get("/v1/runs").json()["runs"]]
    for path in ("/v1/jobs", "/v1/runs", "/v1/runs?q=mushroom", "/v1/events?since=0&seconds=0", "/v1/system"):
        assert done.id not in done.bob.get(path).text, path
    assert done.id in done.ann.get("/v1/events?since=0&seconds=0").text
    assert done.bob.get("/v1/system").json()["runs"] == 0 and done.ann.get("/v1/system").json()["runs"] >= 1
    assert done.bob.get(f"/v1/compare?ids={done.id},{NOBODY}").status_code == 404


def test_a_job_cannot_be_put_beside_another_s(done: Done) -> None:
    own = done.bob.post("/v1/jobs", json=serving.body()).json()["id"]
    try:
        for word in ("before", "after"):
            assert done.bob.post(f"/v1/jobs/{own}/move", json={word: done.id}).status_code == 404
    finally:
        assert done.bob.post(f"/v1/jobs/{own}/cancel").json()["state"] == "cancelled"


def test_an_upload_is_nobody_else_s(done: Done) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    made = done.ann.post("/v1/uploads", content=buffer.getvalue(), headers={"X-Filename": quote("ä.png")})
    assert made.status_code == 201 and made.json()["name"] == "ä.png" and made.json()["width"] == 64
    identity = made.json()["id"]
    assert done.ann.get(f"/v1/uploads/{identity}").content == buffer.getvalue()
    for method, path in (("GET", ""), ("GET", "/mask"), ("POST", "/read")):
        assert done.bob.request(method, f"/v1/uploads/{identity}{path}").status_code == 404
    used = {"prompt": serving.PROMPT, "recipe": "image", "image": identity}
    assert done.bob.post("/v1/jobs", json=used).json()["error"]["fields"][0]["loc"] == "image"


PLACES = [
    "/v1/jobs",
    "/v1/system",
    "/v1/runs",
    "/v1/recipes",
    "/v1/openapi.json",
    "/v1/events",
    f"/v1/jobs/{NOBODY}",
    "/mcp",
]


@pytest.mark.parametrize("path", PLACES)
def test_nobody_gets_nothing(done: Done, path: str) -> None:
    stranger = serving.client(done.studio)
    reply = stranger.request("POST" if path == "/mcp" else "GET", path)
    assert reply.status_code == 401 and reply.json()["error"]["code"] == "sign_in"
    wrong = stranger.get("/v1/jobs", headers={"Authorization": "Bearer " + "a" * 40})
    assert wrong.status_code == 401
    assert "basic" not in reply.headers["www-authenticate"].lower(), "no window of the browser's own"


def test_the_page_is_behind_the_same_door(done: Done) -> None:
    stranger = serving.client(done.studio)
    told = stranger.get("/?tab=watch&job=x", headers={"Accept": "text/html"}, follow_redirects=False)
    assert told.status_code == 303 and told.headers["location"] == "/login?next=%2F%3Ftab%3Dwatch%26job%3Dx"
    form = stranger.get(told.headers["location"])
    assert form.status_code == 200 and 'value="/?tab=watch&amp;job=x"' in form.text
    wrong = stranger.post("/login", data={"name": "ann", "password": "x" * 9, "next": "/"}, follow_redirects=False)
    assert wrong.status_code == 401 and "not right" in wrong.text
    data = {"name": "ann", "password": PASSWORDS["ann"], "next": "/?tab=watch"}
    right = stranger.post("/login", data=data, follow_redirects=False)
    cookie = right.headers["set-cookie"]
    assert right.status_code == 303 and right.headers["location"] == "/?tab=watch"
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and PASSWORDS["ann"] not in cookie
    assert stranger.get("/v1/system").json()["owner"] == "ann", "the cookie is carried"
    assert stranger.get("/", headers={"Accept": "text/html"}, follow_redirects=False).status_code == 200
    assert stranger.post("/v1/logout").status_code == 200
    assert stranger.get("/v1/system").status_code == 401


@pytest.mark.parametrize(
    "onward", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "\r\nX: y", ""]
)
def test_signing_in_leads_nowhere_else(done: Done, onward: str) -> None:
    data = {"name": "ann", "password": PASSWORDS["ann"], "next": onward}
    right = serving.client(done.studio).post("/login", data=data, follow_redirects=False)
    assert right.status_code == 303 and right.headers["location"] == "/"


def test_a_token_for_programs(done: Done) -> None:
    stranger = serving.client(done.studio)
    told = stranger.post("/v1/login", json={"name": "bob", "password": PASSWORDS["bob"]}).json()
    fresh = serving.client(done.studio)
    assert fresh.get("/v1/system", headers={"Authorization": f"Bearer {told['token']}"}).json()["owner"] == "bob"
    assert stranger.post("/v1/login", json={"name": "bob", "password": "wrong words"}).status_code == 401


WAYS = [
    "../spec.json",
    "..%2fspec.json",
    "%2e%2e/%2e%2e/.jobs/secret",
    "export/%2e%2e/recipe.yaml",
    "spec.json",
    "events.jsonl",
    "ckpt/step_000002/scene.safetensors",
    ".lock",
    "export/.new/x",
    "/etc/passwd",
    "export/model.glb%00.png",
    "%252e%252e/x",
]


@pytest.mark.parametrize("way", WAYS)
def test_36_no_address_leads_out_of_the_manifest(done: Done, way: str) -> None:
    """Not even the owner's."""
    assert done.ann.get(f"/v1/runs/{done.id}/files/{way}").status_code == 404


@pytest.mark.parametrize(
    "identity", ["..", "%2e%2e", "a/b", "A" * 12, "a" * 11, "a" * 65, "%2e%2e/jobs", "a" * 12 + "%00", "a b c d e f g"]
)
def test_36_ids_have_one_form(done: Done, identity: str) -> None:
    for path in (f"/v1/jobs/{identity}", f"/v1/runs/{identity}", f"/v1/jobs/{identity}/log", f"/v1/uploads/{identity}"):
        assert done.ann.get(path).status_code in (404, 405), path


def test_a_run_of_the_command_line_has_no_owner_here_and_is_seen_by_none(done: Done) -> None:
    """With users, what a terminal made belongs to none of them."""
    from dreamlab.run.folder import Run

    Run.create(done.studio.root, "prompt: a duck\n", "a duck", ["dreamlab"])
    done.studio.index.refresh()
    for client in (done.ann, done.bob):
        assert "a duck" not in [run["prompt"] for run in client.get("/v1/runs").json()["runs"]]


def test_where_a_run_lies_is_for_who_sits_at_the_machine(tmp_path: Path) -> None:
    """A studio that others can reach names the folder; its place on the disk is told in no answer."""
    studio = serving.studio(tmp_path / "secret-place" / "runs", address="0.0.0.0", users=serving.USERS)
    ann = serving.client(studio, "ann")
    made = ann.post("/v1/jobs", json=serving.body()).json()
    assert made["folder"] == made["run"]
    (studio.root / ".jobs" / "making").rename(studio.root / ".jobs" / "elsewhere")
    (studio.root / ".jobs" / "making").write_text("in the way")
    refused = ann.post("/v1/jobs", json=serving.body())
    assert refused.status_code in (422, 507) and "secret-place" not in refused.text, refused.text
    for path in (
        "/v1/jobs",
        f"/v1/jobs/{made['id']}",
        f"/v1/jobs/{made['id']}/events?seconds=0",
        f"/v1/runs/{made['id']}",
        "/v1/runs",
        "/v1/system",
        f"/v1/jobs/{made['id']}/log",
    ):
        assert "secret-place" not in ann.get(path).text, path
