# SPDX-License-Identifier: Apache-2.0
"""The client against a real studio, a process of its own with its workers; and the page of the documentation, whose
examples are run in order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dreamlab
from dreamlab.core.files import sha256
from dreamlab.python.wire import StudioConflict, StudioForbids, StudioRejects, StudioUnknown
from dreamlab.run.checkpoint import committed
from tests.conftest import threads
from tests.studio import serving
from tests.studio.serving import PROMPT, TINY, Server

ROOT = Path(__file__).parents[2]
pytest.importorskip("starlette", reason="needs starlette, of the extra `studio`")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving.serving(tmp_path_factory.mktemp("studio") / "runs") as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Server) -> dreamlab.Client:
    return dreamlab.Client(server.url)


@pytest.fixture(scope="module")
def done(client: dreamlab.Client) -> dreamlab.RemoteJob:
    return client.dream(PROMPT, recipe="oracle", seed=5, **TINY).wait(timeout=240)


def test_a_job_is_made_waited_for_and_downloaded(done: dreamlab.RemoteJob, tmp_path: Path) -> None:
    assert done.state == "succeeded" and done.info["step"] == 2 and done.info["seed"] == 5
    files = {path.name: path for path in done.download(tmp_path)}
    assert files["model.glb"].read_bytes().startswith(b"glTF")
    for each in done.info["artifacts"]:
        assert sha256(files[Path(each["name"]).name]) == each["sha256"]
    assert [row["step"] for row in done.metrics()][-1] == 2
    assert "finished" in done.log()


def test_a_run_there_is_a_run_here(done: dreamlab.RemoteJob, server: Server, tmp_path: Path) -> None:
    """The same recipe, run in this process, ends with the same tensors."""
    root = server.said.parent / "runs"
    theirs = next(run for run in dreamlab.runs(root) if run.id == done.id)
    with threads(1), pytest.warns(UserWarning):
        ours = dreamlab.dream(PROMPT, recipe=theirs.recipe, out=tmp_path, progress=False)
    kept = [committed(run.path / "ckpt")[-1] / "scene.safetensors" for run in (theirs, ours)]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_children_of_a_job(done: dreamlab.RemoteJob, client: dreamlab.Client, tmp_path: Path) -> None:
    longer = done.continue_(1)
    export = done.export(["stl"], faces=300)
    assert longer.wait(timeout=240).info["step"] == 3 and longer.info["parent"] == done.id
    (stl,) = export.wait(timeout=240).download(tmp_path, ["model.stl"])
    assert stl == tmp_path / "model.stl" and (len(stl.read_bytes()) - 84) // 50 <= 300  # 50 bytes a triangle
    tree = client.run(longer.id)
    assert done.id in json.dumps(tree)


def test_lists_of_jobs_and_runs(done: dreamlab.RemoteJob, client: dreamlab.Client) -> None:
    done.favourite()
    assert [job.id for job in client.jobs(favourite=True)] == [done.id]
    assert done.id in {job.id for job in client.jobs(state="succeeded", text="mushroom")}
    assert done.id in {row["id"] for row in client.runs(text="mushroom white")}
    assert client.job(done.id).prompt == PROMPT


def test_one_that_waits_is_cancelled_deleted_and_brought_back(client: dreamlab.Client) -> None:
    client.pause()
    try:
        waiting = client.dream(PROMPT, recipe="oracle", **TINY)
        assert waiting.state == "queued"
        with pytest.raises(StudioConflict):
            waiting.retry()
        assert waiting.cancel().wait().state == "cancelled"
        waiting.delete()
        assert waiting.id not in {job.id for job in client.jobs()}
        waiting.restore()
        assert waiting.id in {job.id for job in client.jobs(state="cancelled")}
    finally:
        client.resume()


def test_what_cannot_be_is_named(client: dreamlab.Client) -> None:
    with pytest.raises(StudioRejects, match="stps") as caught:
        client.dream(PROMPT, recipe="oracle", stps=3)
    assert [field["loc"] for field in caught.value.fields] == ["settings.stps"]
    with pytest.raises(StudioUnknown):
        client.job("nobodynobody")


def test_a_studio_that_is_killed_meanwhile_is_waited_for(tmp_path: Path) -> None:
    """SIGKILL while the job is waited for; another one is started at the same address, and the job is whole."""
    root = tmp_path / "runs"
    first = Server(root)
    client = dreamlab.Client(first.url, patience=200)
    job = client.dream(PROMPT, recipe="oracle", **{**TINY, "steps": 60})
    killed: list[Server] = []

    def kill(each: dreamlab.RemoteJob) -> None:
        if not killed and each.info["state"] == "running":
            first.kill()
            killed.append(Server(root, "--port", first.url.rpartition(":")[2]))

    try:
        assert job.wait(progress=kill, timeout=280).state == "succeeded" and killed
        assert job.info["step"] == 60
    finally:
        for server in killed or [first]:
            server.stop()


def test_a_token_opens_the_door(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("".join(f"{name}:{stored}\n" for name, stored in serving.USERS.items()))
    with serving.serving(tmp_path / "runs", "--auth", str(users), work=False) as server:
        stranger, ann, bob = (dreamlab.Client(server.url) for _ in range(3))
        with pytest.raises(StudioForbids):
            list(stranger.jobs())
        token = ann.sign_in("ann", serving.PASSWORDS["ann"])
        bob.sign_in("bob", serving.PASSWORDS["bob"])
        job = ann.dream(PROMPT, recipe="oracle", **TINY)
        assert [each.id for each in dreamlab.Client(server.url, token=token).jobs()] == [job.id]
        assert list(bob.jobs()) == [] and list(bob.runs()) == []
        with pytest.raises(StudioUnknown):
            bob.job(job.id)
        with pytest.raises(StudioForbids):
            bob.sign_in("bob", "not his password")


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_examples_of_the_page_run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one place; the address of the studio is the only thing that is another."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "__main__"}
    found = blocks("python.md")
    assert len(found) >= 6
    with threads(1):
        for i, code in enumerate(found):
            code = code.replace("http://127.0.0.1:7860", server.url)
            exec(compile(code, f"python.md, block {i}", "exec"), space)
    assert (tmp_path / "mushroom" / "model.glb").read_bytes().startswith(b"glTF")
    assert space["run"].state == "succeeded" and space["job"].state == "succeeded"
