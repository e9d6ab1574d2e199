# SPDX-License-Identifier: Apache-2.0
"""Fetching models as a user meets it: the real command against a Hub that fails in each of its ways."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dreamlab.core.errors import ModelError
from dreamlab.hub import download, lock
from dreamlab.hub.download import RemoteFile, fetch
from dreamlab.hub.prefetch import plan, prefetch
from dreamlab.hub.registry import registry
from tests.hub.conftest import COMMIT, HALF, TEXT, UNET, Hub, Models, environment, fill, one_line, sha

ROOT = Path(__file__).parents[2]

UNET_AT = "/owner/tiny/resolve/main/unet/model.safetensors"
TEXT_AT = f"/owner/tiny/resolve/{COMMIT}/text/model.safetensors"


def pinned(hub: Hub) -> None:
    """After the first file its commit is asked for."""
    fill(hub, "owner/tiny", COMMIT)


def test_a_model_comes_whole_and_is_found(models: Models, hub: Hub, place: Path) -> None:
    pinned(hub)
    ended = models("prefetch", "tiny")
    assert ended.code == 0 and ended.out.splitlines() == [str(place / "tiny")], ended.err
    assert (place / "tiny/unet/model.safetensors").read_bytes() == UNET
    assert (place / "tiny/text/model.safetensors").read_bytes() == TEXT
    assert not list(place.rglob("*.part")) and not (place / "tiny/unet/model.fp16.safetensors").exists()
    assert models("path", "tiny").out.strip() == str(place / "tiny")
    known = json.loads((place / ".pins/tiny.json").read_text())
    assert known["commit"] == COMMIT and known["sha256"]["text/model.safetensors"] == sha(TEXT)
    # All of one commit: `main` is asked once, and may move while the rest comes.
    assert [path.split("/")[4] for path in hub.paths()] == ["main"] + [COMMIT] * (len(hub.asked) - 1)
    before = len(hub.asked)
    assert models("prefetch", "tiny").code == 0 and len(hub.asked) == before


def test_the_variant_that_was_asked_for(models: Models, hub: Hub, place: Path) -> None:
    pinned(hub)
    assert models("prefetch", "tiny", "--variant", "fp16").code == 0
    assert (place / "tiny/unet/model.fp16.safetensors").read_bytes() == HALF
    assert not (place / "tiny/unet/model.safetensors").exists()
    assert (place / "tiny/text/model.safetensors").is_file()  # which has no other
    assert models("path", "tiny").code == 0
    assert "no variant 'bf16'; variants: fp16" in one_line(models("prefetch", "tiny", "--variant", "bf16"), 2)


def test_dry_run_asks_nobody(models: Models, hub: Hub, place: Path) -> None:
    ended = models("prefetch", "tiny", "--dry-run")
    assert ended.code == 0 and not hub.asked and not (place / "tiny").exists()
    assert "from owner/tiny to" in ended.out and "unet/model.safetensors  61.9 kB" in ended.out


def test_404_goes_to_the_mirror_then_says_where_it_looked(models: Models, hub: Hub, place: Path) -> None:
    fill(hub, "friend/tiny")
    fill(hub, "friend/tiny", COMMIT)
    hub.files = {path: data for path, data in hub.files.items() if not path.startswith("/owner/")}
    assert models("prefetch", "tiny").code == 0
    assert json.loads((place / ".pins/tiny.json").read_text())["repo"] == "friend/tiny"
    said = one_line(models("prefetch", "gate"))
    assert f"404 for {hub.url}/owner/gate/resolve/main/config.json" in said and "model: PATH" in said


@pytest.mark.parametrize("code", [401, 403])
def test_gated_says_how_to_be_let_in(models: Models, hub: Hub, code: int) -> None:
    hub.codes["/owner/gate/resolve/main/config.json"] = [code] * 9
    said = one_line(models("prefetch", "gate"))
    assert f"({code}); it is gated: accept its licence, and set HF_TOKEN" in said and f"at {hub.url}/owner/gate" in said
    said = one_line(models("prefetch", "gate", HF_TOKEN="hf_secret"))
    assert "the account of HF_TOKEN must accept its licence" in said and "hf_secret" not in said


def test_a_repository_that_is_gone_is_401_of_the_hub(models: Models, hub: Hub, place: Path) -> None:
    """For strangers; the header says what it means, or the registry knows that it is not gated."""
    fill(hub, "friend/tiny")
    fill(hub, "friend/tiny", COMMIT)
    for said in ({"X-Error-Code": "RepoNotFound"}, {}):
        hub.said = said
        hub.codes["/owner/tiny/resolve/main/model_index.json"] = [401]
        ended = models("prefetch", "tiny")
        assert ended.code == 0 and not hub.codes["/owner/tiny/resolve/main/model_index.json"], ended.err
        shutil.rmtree(place)
    hub.said = {"X-Error-Code": "RepoNotFound"}
    hub.codes["/owner/gate/resolve/main/config.json"] = [401]
    assert f"401 for {hub.url}/owner/gate" in one_line(models("prefetch", "gate"))
    hub.said = {"X-Error-Code": "GatedRepo"}
    hub.codes["/owner/split/resolve/main/config.json"] = [403]  # gated since the registry was written
    assert "it is gated: accept its licence" in one_line(models("prefetch", "split"))
    hub.said = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.codes["/owner/split/resolve/main/config.json"] = [401]
    assert "does not know the HF_TOKEN that is set" in one_line(models("prefetch", "split", HF_TOKEN="hf_old"))


def test_the_token_stays_with_the_hub(models: Models, hub: Hub, other: Hub, place: Path) -> None:
    """The Hub redirects to where the bytes are; that host needs no token and gets none."""
    first = hub.add("owner/gate", "config.json", b"{}")
    large = hub.add("owner/gate", "model.safetensors", UNET, COMMIT, tag=True)
    hub.lead[large] = f"{other.url}/blob"
    other.files["/blob"] = UNET
    ended = models("prefetch", "gate", HF_TOKEN="hf_secret")
    assert ended.code == 0, ended.err
    assert dict(hub.asked)[first]["authorization"] == dict(hub.asked)[large]["authorization"] == "Bearer hf_secret"
    assert other.paths() == ["/blob"] and "authorization" not in other.asked[0][1]
    assert "hf_secret" not in ended.out + ended.err
    assert "HF_TOKEN holds characters" in one_line(models("prefetch", "tiny", HF_TOKEN="hf se\u00e9cret"))


def test_no_redirect_leaves_encryption(models: Models, hub: Hub) -> None:
    hub.lead["/owner/tiny/resolve/main/model_index.json"] = "http://example.com/model_index.json"
    assert "is no https address" in one_line(models("prefetch", "tiny"))
    hub.lead["/owner/tiny/resolve/main/model_index.json"] = "file:///etc/hostname"
    assert "answers 302" in one_line(models("prefetch", "tiny"))
    assert "http://example.com/owner/tiny" in one_line(models("prefetch", "tiny", HF_ENDPOINT="http://example.com"))


def test_a_wrong_hash_is_set_aside(models: Models, hub: Hub, place: Path) -> None:
    pinned(hub)
    hub.files[f"/owner/tiny/resolve/{COMMIT}/unet/model.safetensors"] = UNET[:-1] + b"\0"
    said = one_line(models("prefetch", "tiny"))
    assert f"the registry says {sha(UNET)[:12]}" in said and "model.safetensors.wrong" in said
    assert (place / "tiny/unet/model.safetensors.wrong").read_bytes() == UNET[:-1] + b"\0"
    assert not (place / "tiny/unet/model.safetensors").exists()
    # The registry knows no hash of the text encoder; the Hub says one.
    fill(hub, "owner/tiny", COMMIT)
    hub.files[TEXT_AT] = TEXT[:-1] + b"\0"
    assert f"the Hub says {sha(TEXT)[:12]}" in one_line(models("prefetch", "tiny"))
    hub.files[TEXT_AT] = TEXT
    assert models("prefetch", "tiny").code == 0


def test_another_size_than_the_registry_s_is_not_even_begun(models: Models, hub: Hub, place: Path) -> None:
    pinned(hub)
    hub.files[f"/owner/tiny/resolve/{COMMIT}/unet/model.safetensors"] = UNET[:-7]
    said = one_line(models("prefetch", "tiny"))
    assert f"offers {len(UNET) - 7} bytes, the registry knows {len(UNET)}" in said
    assert not list(place.rglob("unet/model*"))


def test_what_was_begun_is_gone_on_with(models: Models, hub: Hub, place: Path) -> None:
    """Answers that end early; the same command, or the next one, asks for the rest."""
    pinned(hub)
    address = f"/owner/tiny/resolve/{COMMIT}/unet/model.safetensors"
    hub.cut[address] = [20_000, 30_000]
    assert models("prefetch", "tiny").code == 0
    ranges = [headers.get("range") for path, headers in hub.asked if path == address]
    assert ranges == [None, "bytes=20000-", "bytes=50000-"]
    assert (place / "tiny/unet/model.safetensors").read_bytes() == UNET


def test_an_answer_that_always_ends_early_keeps_what_came(
    models: Models, hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned(hub)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    address = f"/owner/tiny/resolve/{COMMIT}/unet/model.safetensors"
    hub.cut[address] = [1000] + [0] * 9
    with pytest.raises(
        ModelError, match=r"ends its answer early; 1.0 kB are kept, the same command goes on from there"
    ):
        prefetch(plan(registry().find("tiny")))
    assert (place / "tiny/unet/model.safetensors.part").read_bytes() == UNET[:1000]
    hub.cut.clear()
    hub.asked.clear()
    assert models("prefetch", "tiny").code == 0
    assert dict(hub.asked)[address]["range"] == "bytes=1000-"
    assert (place / "tiny/unet/model.safetensors").read_bytes() == UNET


def test_what_was_begun_of_another_file_is_no_beginning(models: Models, hub: Hub, place: Path) -> None:
    pinned(hub)
    part = place / "tiny/unet/model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    said = one_line(models("prefetch", "tiny"))
    assert "continued from an earlier start" in said and not part.exists()
    assert models("prefetch", "tiny").code == 0
    assert (place / "tiny/unet/model.safetensors").read_bytes() == UNET


def test_a_server_without_ranges_starts_again(models: Models, hub: Hub, place: Path) -> None:
    pinned(hub)
    hub.ranges = False
    hub.cut[f"/owner/tiny/resolve/{COMMIT}/unet/model.safetensors"] = [20_000]
    assert models("prefetch", "tiny").code == 0
    assert (place / "tiny/unet/model.safetensors").read_bytes() == UNET


def test_without_any_hash_nothing_is_continued(place: Path, hub: Hub) -> None:
    """Two halves of two files could not be told from one."""
    hub.files["/plain"] = TEXT
    (place / "f.part").parent.mkdir(parents=True)
    (place / "f.part").write_bytes(b"y" * 100)
    fetch(RemoteFile(f"{hub.url}/plain", place / "f", "f"))
    assert (place / "f").read_bytes() == TEXT


def test_a_whole_beginning_is_believed_by_its_hash_alone(place: Path, hub: Hub) -> None:
    hub.files["/plain"] = TEXT
    place.mkdir()
    for sha256, asked in ((sha(TEXT), 0), ("", 1)):
        (place / "f.part").write_bytes(TEXT if sha256 else b"z" * len(TEXT))
        fetch(RemoteFile(f"{hub.url}/plain", place / "f", "f", bytes=len(TEXT), sha256=sha256))
        assert (place / "f").read_bytes() == TEXT and len(hub.asked) == asked


def test_shards_are_named_by_us(models: Models, hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file or several: the index says how many, and can say nothing else."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.add("owner/split", "config.json", b"{}")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        hub.add("owner/split", name, UNET, COMMIT, tag=True)
    index = hub.add("owner/split", "model.safetensors.index.json", b"", COMMIT)
    for bad in (
        ["../../escape.safetensors"],
        ["model-00001-of-00002.safetensors", "../x-00002-of-00002.safetensors"],
        ["model-00001-of-00002.safetensors"],
        ["model-00001-of-99999.safetensors"],
        [7],
        [],
    ):
        hub.files[index] = json.dumps({"weight_map": {str(i): name for i, name in enumerate(bad)}}).encode()
        with pytest.raises(ModelError, match="is no index of shards"):
            prefetch(plan(registry().find("split")))
    hub.files[index] = json.dumps({"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}).encode()
    assert models("prefetch", "split").code == 0
    assert sorted(path.name for path in (place / "split").iterdir()) == [
        "config.json", *names, "model.safetensors.index.json"
    ]  # fmt: skip
    assert models("verify", "split").code == 0
    assert not list(place.parent.glob("escape*"))


def test_a_pickle_is_fetched_when_its_name_is_said(models: Models, hub: Hub, place: Path) -> None:
    hub.add("owner/old", "old.pt", b"not opened by anybody here")
    said = one_line(models("prefetch", "old"))
    assert "old.pt is a pickle" in said and said.endswith("--allow-pickle old.pt") and not hub.asked
    assert models("prefetch", "old", "--allow-pickle", "other.pt").code == 4
    ended = models("prefetch", "old", "--allow-pickle", "old.pt")
    assert ended.code == 0 and ended.out.strip() == str(place / "old/old.pt")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "DREAMLAB_OFFLINE"])
def test_offline_asks_nobody(models: Models, hub: Hub, name: str) -> None:
    assert f"not fetched, {name} is set" in one_line(models("prefetch", "tiny", **{name: "1"}))
    assert not hub.asked


def test_no_room_is_said_before_anything_is_fetched(models: Models, hub: Hub, place: Path) -> None:
    said = one_line(models("prefetch", "huge"))
    assert "needs 3600000 GB" in said and "free; make room, or name another disk's folder in DREAMLAB_MODELS" in said
    assert not hub.asked and not (place / "huge").exists()


def test_no_room_for_what_the_server_offers(place: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files whose size the registry does not know."""
    monkeypatch.setattr(download, "room", lambda folder: download.RESERVE + 1000)
    with pytest.raises(ModelError, match=r"needs 61.9 kB .* has 268 MB free"):
        fetch(RemoteFile(f"{hub.url}{UNET_AT}", place / "f", "f"))


def test_a_refused_write_is_exit_7_and_keeps_what_came(place: Path, hub: Hub) -> None:
    """The shell's limit refuses in the middle of a file, as a full disk or a quota would."""
    pinned(hub)
    variables = os.environ | environment(place.parent) | {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)}
    command = f"ulimit -f 16; exec {sys.executable} -m dreamlab models prefetch tiny"
    done = subprocess.run(["bash", "-c", command], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 7 and "raise the limit on the size of files (ulimit -f)" in done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    assert UNET.startswith((place / "tiny/unet/model.safetensors.part").read_bytes())


def test_a_server_that_is_busy_is_asked_again(models: Models, hub: Hub) -> None:
    pinned(hub)
    hub.codes["/owner/tiny/resolve/main/model_index.json"] = [503, 429]
    assert models("prefetch", "tiny").code == 0
    hub.codes["/owner/gate/resolve/main/config.json"] = [500] * 9
    assert "answers 500" in one_line(models("prefetch", "gate"))
    hub.codes["/owner/gate/resolve/main/config.json"] = [410]
    assert "answers 410; look at http://127.0.0.1" in one_line(models("prefetch", "gate"))


def test_nobody_there_and_nobody_answering(models: Models, hub: Hub) -> None:
    nobody = "http://127.0.0.1:9"
    assert "127.0.0.1:9 cannot be reached" in one_line(models("prefetch", "tiny", HF_ENDPOINT=nobody))
    hub.silent = True
    said = one_line(models("prefetch", "tiny", HF_HUB_DOWNLOAD_TIMEOUT="0.2"))
    assert "does not answer within 0.2 s (HF_HUB_DOWNLOAD_TIMEOUT sets how long)" in said


def test_one_process_fetches_a_model(models: Models, place: Path) -> None:
    with lock.held("tiny"):
        assert "is fetching it; wait or stop it" in one_line(models("prefetch", "tiny"))


def test_configurations_have_a_size(place: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SMALL", 1000)
    with pytest.raises(ModelError, match="are no configuration"):
        fetch(RemoteFile(f"{hub.url}{UNET_AT}", place / "f", "f", small=True))
