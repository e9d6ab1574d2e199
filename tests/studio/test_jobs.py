# SPDX-License-Identifier: Apache-2.0
"""Jobs over REST: submitted once whatever the client does, refused by the name of the field, stopped, moved, thrown
away. Faults 21 to 28 of the matrix, each with its number."""

from __future__ import annotations

import io
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from dreamlab.jobs.folders import located
from dreamlab.jobs.queue import MOST_OF_AN_OWNER
from dreamlab.studio.estimate import AFTERWARDS
from dreamlab.studio.studio import Studio
from tests.studio import serving
from tests.studio.conftest import Done
from tests.studio.serving import PROMPT, Json, body


def submit(client: TestClient, given: Json | None = None, **headers: str) -> Json:
    made = client.post("/v1/jobs", json=body() if given is None else given, headers=headers)
    assert made.status_code == 202, made.text
    found: Json = made.json()
    assert made.headers["location"] == f"/v1/jobs/{found['id']}"
    return found


def fields(client: TestClient, given: Json, path: str = "/v1/jobs") -> dict[str, str]:
    """What is wrong, by field; and that nothing was queued."""
    said = client.post(path, json=given)
    assert said.status_code == 422, said.text
    assert client.get("/v1/jobs").json()["jobs"] == []
    error = said.json()["error"]
    assert error["hint"] and all(set(each) == {"loc", "msg", "got", "allowed"} for each in error["fields"])
    return {each["loc"]: each["msg"] for each in error["fields"]}


def rows(root: Path) -> list[tuple[str, str]]:
    """Ids and prompts as another program reads them."""
    with sqlite3.connect(f"file:{root}/.jobs/queue.sqlite?mode=ro", uri=True) as db:
        return db.execute("SELECT id, prompt FROM jobs ORDER BY rowid").fetchall()


def test_a_prompt_alone_is_a_job(client: TestClient, studio: Studio) -> None:
    """What the Blender extension sends and reads."""
    made = submit(client, {"prompt": PROMPT})
    assert made["state"] == "queued" and made["position"] == 1 and made["recipe"] == "toybox"
    now = client.get(f"/v1/jobs/{made['id']}").json()
    assert {"state", "progress", "stage", "error", "folder"} <= now.keys() and Path(now["folder"]).is_dir()
    assert client.post(f"/v1/jobs/{made['id']}/cancel", json={}).json()["state"] == "cancelled"
    assert rows(studio.root) == [(made["id"], PROMPT)]


def test_21_a_hundred_at_once_all_get_an_id_or_are_told_when_to_come_back(client: TestClient, studio: Studio) -> None:
    """None is lost and none is doubled: what was accepted is what the database holds, and every folder is there."""
    with ThreadPoolExecutor(20) as pool:
        said = list(pool.map(lambda i: client.post("/v1/jobs", json=body(seed=i)), range(100)))
    accepted = [each.json()["id"] for each in said if each.status_code == 202]
    assert all(each.status_code in (202, 429, 503) for each in said)
    assert all("Retry-After" in each.headers for each in said if each.status_code != 202)
    assert len(accepted) >= 50 and len(set(accepted)) == len(accepted)
    assert sorted(accepted) == sorted(identity for identity, _ in rows(studio.root))
    folders = {path.name[-12:] for path in studio.root.iterdir() if path.name != ".jobs"}
    assert folders == set(accepted)


def test_21_an_owner_who_has_enough_waiting_is_told_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamlab.jobs.queue.MOST_OF_AN_OWNER", 2)
    monkeypatch.setattr("dreamlab.jobs.queue.MOST_WAITING", 3)
    studio = serving.studio(tmp_path / "runs", users=serving.USERS)
    ann, bob = (serving.client(studio, name) for name in serving.USERS)
    assert MOST_OF_AN_OWNER > 2
    for _ in range(2):
        submit(ann)
    own = ann.post("/v1/jobs", json=body())
    assert own.status_code == 429 and int(own.headers["retry-after"]) > 0 and own.json()["error"]["code"] == "too_many"
    submit(bob)
    full = bob.post("/v1/jobs", json=body())
    assert full.status_code == 503 and int(full.headers["retry-after"]) > 0


def test_22_the_same_key_is_the_same_job(client: TestClient, studio: Studio) -> None:
    key = {"Idempotency-Key": "a-double-click"}
    first = submit(client, **key)
    with ThreadPoolExecutor(8) as pool:
        again = list(
            pool.map(lambda _: client.post("/v1/jobs", json=body("a blue duck"), headers=key).json(), range(8))
        )
    assert {each["id"] for each in again} == {first["id"]} and len(rows(studio.root)) == 1
    batch = {"job": body(), "zip": {"seed": [1, 2]}}
    made = [client.post("/v1/batches", json=batch, headers={"Idempotency-Key": "b"}).json() for _ in range(2)]
    assert [each["id"] for each in made[0]["jobs"]] == [each["id"] for each in made[1]["jobs"]]
    assert client.post("/v1/jobs", json=body(), headers={"Idempotency-Key": "a b"}).status_code == 422


def test_22_a_key_is_its_owner_s(tmp_path: Path) -> None:
    studio = serving.studio(tmp_path / "runs", users=serving.USERS)
    made = [submit(serving.client(studio, name), **{"Idempotency-Key": "k"})["id"] for name in serving.USERS]
    assert made[0] != made[1]


def test_23_cancel_means_something_in_every_state(client: TestClient, studio: Studio) -> None:
    queued = submit(client)["id"]
    assert client.post(f"/v1/jobs/{queued}/cancel").json()["state"] == "cancelled", "the body may be left out"
    again = client.post(f"/v1/jobs/{queued}/cancel", json={"keep": True})
    assert again.status_code == 200 and again.json()["state"] == "cancelled", "it stays as it is"
    running = submit(client)["id"]
    studio.queue.enlist(1, "cpu", 1, 0, "")
    assert studio.queue.claim(1, "cpu") is not None
    assert client.post(f"/v1/jobs/{running}/cancel", json={"keep": True}).json()["state"] == "running"
    assert studio.queue.beat(1).cancel == "keep", "its worker hears of it"
    unknown = client.post("/v1/jobs/abcdefghijkl/cancel", json={})
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "unknown"
    assert client.post(f"/v1/jobs/{running}/cancel", json={"keep": "yes"}).status_code == 422
    assert client.delete(f"/v1/jobs/{running}").status_code == 409, "one that runs is not thrown away"


def test_24_times_are_utc_and_in_order(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever zone the server lives in."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    import time

    time.tzset()
    try:
        made = submit(client)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    created = datetime.fromisoformat(made["created"])
    assert created.utcoffset() == timedelta(0) and abs((datetime.now(created.tzinfo) - created).total_seconds()) < 120


@pytest.mark.parametrize("prompt", ["", " ", "\n\t ", "x", None, 3, ["a duck"]])
def test_25_a_prompt_that_says_nothing_is_a_field_error(client: TestClient, prompt: object) -> None:
    assert set(fields(client, body() | {"prompt": prompt})) == {"prompt"}
    assert set(fields(client, {})) == {"prompt"}


def test_26_a_paste_by_mistake_is_too_long(client: TestClient) -> None:
    assert "1000" in fields(client, body("a duck " * 15_000))["prompt"]
    said = client.post(
        "/v1/jobs", content=b'{"prompt": "' + b"a" * (2 << 20) + b'"}', headers={"Content-Type": "application/json"}
    )
    assert said.status_code == 413


def test_26_what_a_real_model_does_not_hear_is_said_before(client: TestClient) -> None:
    said = client.get("/v1/words", params={"prompt": "very " * 90 + "red mushroom", "recipe": "paper/sds"}).json()
    assert said["tokens"] > said["limit"] == 75


def test_what_the_prior_imagines_of_a_prompt_is_four_sides_of_each_object(client: TestClient) -> None:
    for prompt, rows in (("a red mushroom with a white stem", 1), ("a red duck and a blue house", 2)):
        said = client.get("/v1/imagined", params={"prompt": prompt})
        assert said.status_code == 200 and said.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(said.content)) as picture:
            assert picture.size == (4 * 128, rows * 128)
    other = client.get("/v1/imagined", params={"prompt": prompt, "seed": 1})
    assert other.status_code == 200 and other.content != said.content
    for prompt in ("a red dragon", ""):
        refused = client.get("/v1/imagined", params={"prompt": prompt})
        assert refused.status_code == 422 and refused.json()["error"]["fields"][0]["loc"] == "prompt", refused.text


VERBATIM = [
    "a red mushroom 🍄",
    "فطر أحمر a red mushroom",
    "a réd mushroom é",
    "../../etc/passwd",
    "CON",
    "a mushroom.",
    "NUL",
    "a: red # mushroom",
    "@red %d * & [mushroom] {x}",
    "${oc.env:HOME}",
    "yes",
    "0777",
    'a "red" mushroom',
    "a 'red' one",
    "null",
    "~~",
    "-- --",
    "a\nb",
    "<script>alert(1)</script>",
    "'; DROP TABLE jobs; --",
    "x" * 300,
    "\u202egnimas",
]


@pytest.mark.parametrize("prompt", VERBATIM)
def test_27_28_a_prompt_is_kept_byte_for_byte(client: TestClient, studio: Studio, prompt: str) -> None:
    """By a guidance that takes any words: in answer, database and the run's own file; its folder is ASCII."""
    import yaml

    settings = {**serving.TINY, "stages.0.terms.0.guidance": "toybox", "stages.0.terms.0.guidance.unknown": "skip"}
    given = {"prompt": f"{prompt} mushroom", "recipe": "toybox-single", "settings": settings}
    made = client.post("/v1/jobs", json=given)
    assert made.status_code == 202, made.text
    view = made.json()
    assert view["prompt"] == f"{prompt} mushroom" and rows(studio.root) == [(view["id"], f"{prompt} mushroom")]
    folder = Path(view["folder"])
    assert yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))["prompt"] == f"{prompt} mushroom"
    assert (
        folder.parent == studio.root
        and folder.name.isascii()
        and folder.name.endswith(view["id"])
        and len(folder.name) < 80
    )


@pytest.mark.parametrize("raw", [b'"a\\u0000duck"', b'"a\\u0007duck"', b'"a \\ud800 duck"', b'"a\\u009fduck"'])
def test_27_control_characters_and_half_ones_are_refused(client: TestClient, raw: bytes) -> None:
    said = client.post("/v1/jobs", content=b'{"prompt": ' + raw + b"}", headers={"Content-Type": "application/json"})
    assert said.status_code == 422 and client.get("/v1/jobs").json()["jobs"] == []


BODIES = {
    "no JSON": b"{",
    "two": b"{} {}",
    "a list": b"[]",
    "a text": b'"x"',
    "no number": b'{"prompt": NaN}',
    "endless": b'{"seed": Infinity}',
    "deep": b'{"settings": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "many digits": b'{"seed": ' + b"9" * 9000 + b"}",
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "empty": b"",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none_is_said(client: TestClient, name: str) -> None:
    said = client.post("/v1/jobs", content=BODIES[name], headers={"Content-Type": "application/json"})
    assert said.status_code == 422 and said.json()["error"]["message"], said.text


def test_a_body_says_what_it_is(client: TestClient) -> None:
    """A form of another site can send text/plain; it cannot send JSON without asking."""
    said = client.post("/v1/jobs", content=b'{"prompt": "a duck"}', headers={"Content-Type": "text/plain"})
    assert said.status_code == 415 and client.get("/v1/jobs").json()["jobs"] == []


def test_every_field_that_is_wrong_is_named(client: TestClient) -> None:
    wrong = {"seed": -1, "lane": "fast", "priority": 1e9, "count": 0, "sed": 3, "settings": [], "webhook": 3}
    assert set(fields(client, body() | wrong)) == set(wrong)
    assert "seed" in fields(client, body() | {"sed": 3})["sed"]


CLOSED = [
    {"stages.0.scene.file": "/etc/passwd"},
    {"image.file": "/etc/passwd"},
    {"stages.0.terms.0.guidance.weights": "/tmp/x"},
    {"stages.0.terms.0.guidance": {"kind": "sd", "model": "evil/model"}},
    {"model": "evil/model"},
    {"prompt": "x y"},
    {"stages.0.scene.backend": "gsplat"},
    {"__class__": 1},
    {"stages.0.terms.0.guidance._target_": "os.system"},
    {"stages.99.steps": 3},
    {"export.formats": ["exe"]},
    {"steps": 10**12},
    {"steps": "3; rm"},
    {"size": "${oc.env:HOME}"},
]


@pytest.mark.parametrize("settings", CLOSED, ids=str)
def test_31_settings_from_the_web_are_a_closed_set(client: TestClient, settings: Json) -> None:
    assert all(name.startswith(("settings.", "prompt")) for name in fields(client, body(settings=settings)))


@pytest.mark.parametrize("recipe", ["/etc/passwd", "../configs/toybox", "toybox.yaml", "nope", "con"])
def test_recipes_are_those_of_the_package(client: TestClient, recipe: str) -> None:
    assert set(fields(client, body(recipe=recipe))) == {"recipe"}


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/",
        "https://10.0.0.1",
        "https://169.254.169.254/latest",
        "file:///etc/passwd",
        "gopher://x",
        "https://user:password@example.com",
        "x",
    ],
)
def test_37_a_webhook_leads_nowhere_private(client: TestClient, address: str) -> None:
    assert set(fields(client, body(webhook=address))) == {"webhook"}


def test_files_are_uploads_of_the_owner(client: TestClient) -> None:
    for given in ({"recipe": "image", "image": "/etc/passwd"}, {"recipe": "image", "image": "0" * 64}):
        assert set(fields(client, {"prompt": PROMPT, **given})) == {"image"}
    assert set(fields(client, {"kind": "texture", "prompt": PROMPT, "mesh": "../x"})) == {"mesh"}


def test_a_count_is_a_batch_with_seeds_that_follow(client: TestClient) -> None:
    made = client.post("/v1/jobs", json=body(seed=7, count=3)).json()
    assert [job["seed"] for job in made["jobs"]] == [7, 8, 9] and len({job["batch"] for job in made["jobs"]}) == 1
    found = client.get("/v1/jobs", params={"batch": made["batch"]}).json()["jobs"]
    assert {job["id"] for job in found} == {job["id"] for job in made["jobs"]}


def test_a_batch_zips_and_crosses(client: TestClient) -> None:
    given = {"job": body(), "zip": {"prompt": ["a red duck", "a blue duck"]}, "cross": {"seed": [1, 2, 3]}}
    made = client.post("/v1/batches", json=given)
    assert made.status_code == 202
    got = [(job["prompt"], job["seed"], job["values"]) for job in made.json()["jobs"]]
    assert got == [(p, s, {"prompt": p, "seed": s}) for p in ("a red duck", "a blue duck") for s in (1, 2, 3)]
    for bad in (
        {"zip": {"seed": [1], "prompt": ["a", "b"]}},
        {"cross": {"seed": list(range(300))}},
        {"cross": {"seed": 3}},
    ):
        assert client.post("/v1/batches", json={"job": body(), **bad}).status_code == 422


def test_pages_go_on_where_they_end(client: TestClient) -> None:
    made = [submit(client, body(seed=i))["id"] for i in range(5)]
    seen, cursor = [], ""
    while True:
        page = client.get("/v1/jobs", params={"limit": 2, "cursor": cursor}).json()
        seen += [job["id"] for job in page["jobs"]]
        if not (cursor := page["next"]):
            break
        submit(client)  # what comes meanwhile moves nothing
    assert seen == made[::-1]
    for params in (
        {"limit": 0},
        {"limit": 1000},
        {"cursor": "x"},
        {"state": "done"},
        {"nope": 1},
        {"favourite": "maybe"},
    ):
        assert client.get("/v1/jobs", params=params).status_code == 422, params


def test_order_lanes_and_the_trash(client: TestClient) -> None:
    a, b, c = (submit(client, body(seed=i))["id"] for i in range(3))

    def line() -> list[str]:
        jobs = client.get("/v1/jobs", params={"state": "queued"}).json()["jobs"]
        return [job["id"] for job in sorted(jobs, key=lambda job: job["position"])]

    assert client.post(f"/v1/jobs/{c}/move", json={"before": a}).status_code == 200 and line() == [c, a, b]
    assert client.post(f"/v1/jobs/{c}/move", json={"lane": "background"}).json()["lane"] == "background"
    assert line() == [a, b, c]
    assert client.post(f"/v1/jobs/{b}/move", json={"before": "abcdefghijkl"}).status_code == 404
    assert client.post(f"/v1/jobs/{b}/favourite").json()["favourite"] is True
    assert [job["id"] for job in client.get("/v1/jobs?favourite=true").json()["jobs"]] == [b]
    folder = Path(client.get(f"/v1/jobs/{a}").json()["folder"])
    assert client.delete(f"/v1/jobs/{a}").status_code == 200 and not folder.exists() and line() == [b, c]
    assert [job["id"] for job in client.get("/v1/jobs?deleted=true").json()["jobs"]] == [a]
    assert client.post(f"/v1/jobs/{a}/restore").status_code == 200 and folder.is_dir()
    assert client.post("/v1/queue/pause").json()["paused"] and client.get("/v1/system").json()["paused"]
    assert not client.post("/v1/queue/resume").json()["paused"]


def test_a_finished_job_has_files_curves_and_children(done: Done) -> None:
    view = done.ann.get(f"/v1/jobs/{done.id}").json()
    assert view["state"] == "succeeded" and view["progress"] == 1.0
    (model,) = [each for each in view["artifacts"] if each["name"] == "export/model.glb"]
    data = done.ann.get(model["url"]).content
    assert len(data) == model["bytes"] and data[:4] == b"glTF"
    assert [each["step"] for each in done.ann.get(view["links"]["metrics"]).json()["points"]] == [1, 2]
    assert "finished" in done.ann.get(view["links"]["log"]).json()["text"]
    pictures = done.ann.get(f"/v1/jobs/{done.id}/previews").json()
    assert {1, 2} <= {each["step"] for each in pictures}
    assert done.ann.get(pictures[-1]["url"]).content.startswith(b"\x89PNG")
    for act, given, kind in (("continue", {"steps": 3}, "continue"), ("export", {"formats": ["obj"]}, "export")):
        child = done.ann.post(f"/v1/jobs/{done.id}/{act}", json=given)
        assert child.status_code == 202 and (child.json()["kind"], child.json()["parent"]) == (kind, done.id), (
            child.text
        )
        assert done.ann.post(f"/v1/jobs/{child.json()['id']}/cancel").json()["state"] == "cancelled"
    branched = done.ann.post(f"/v1/jobs/{done.id}/branch", json={"step": 1, "seed": 4, "prompt": "a blue mushroom"})
    assert branched.status_code == 202 and branched.json()["prompt"] == "a blue mushroom", branched.text
    assert done.ann.post(f"/v1/jobs/{branched.json()['id']}/cancel").json()["state"] == "cancelled"
    assert done.ann.post(f"/v1/jobs/{done.id}/export", json={"texture": 100}).status_code == 422
    assert done.ann.post(f"/v1/jobs/{done.id}/retry").status_code == 409


def test_an_estimate_is_measured_once_there_is_something_to_measure(done: Done, client: TestClient) -> None:
    guess = client.get("/v1/estimate", params={"recipe": "oracle"}).json()
    assert guess["measured"] is False and guess["seconds"] > 0
    params = {"recipe": "oracle", "settings": "steps=2,size=16,stages.0.views=1"}
    same = done.ann.get("/v1/estimate", params=params).json()
    view = done.ann.get(f"/v1/jobs/{done.id}").json()
    took = (datetime.fromisoformat(view["finished"]) - datetime.fromisoformat(view["started"])).total_seconds()
    assert same["measured"] is True and same["seconds"] == pytest.approx(took, abs=0.2)
    # A thousand times the steps: so much more of what the steps took, as the run's own record has it.
    lines = (located(done.studio.root, view["run"]) / "events.jsonl").read_text().splitlines()
    trained = max(json.loads(line).get("seconds", 0.0) for line in lines if '"metrics"' in line)
    more = done.ann.get("/v1/estimate", params=params | {"settings": "steps=2000,size=16,stages.0.views=1"}).json()
    assert trained > 0 and more["seconds"] == pytest.approx(took + 999 * trained, abs=0.2)
    assert client.get("/v1/estimate", params={"recipe": "oracle", "settings": "steps=x"}).status_code == 422


def test_a_prompt_of_several_objects_takes_as_many_times_the_steps(client: TestClient) -> None:
    asked = {"recipe": "toybox-gaussians", "settings": "steps=1000"}

    def seconds(prompt: str) -> float:
        told = {"prompt": prompt} if prompt else {}
        return float(client.get("/v1/estimate", params=asked | told).json()["seconds"])

    none, one, three = seconds(""), seconds("a red duck"), seconds("a red duck, a blue house and a green tree")
    assert one == none and three - AFTERWARDS == pytest.approx(3 * (one - AFTERWARDS), rel=0.01)
