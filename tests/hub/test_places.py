# SPDX-License-Identifier: Apache-2.0
"""Where a model is looked for, in which order, and what is said when it is nowhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamlab.core.errors import ModelError
from dreamlab.hub import located, reachable
from dreamlab.hub.listing import human, summary
from dreamlab.hub.places import find, models_folder
from dreamlab.hub.preflight import supply
from dreamlab.hub.registry import registry
from tests.hub.conftest import HALF, TEXT, UNET, Models, one_line


@pytest.fixture(autouse=True)
def here(place: Path) -> Iterator[None]:
    assert place == models_folder()
    yield


def whole(folder: Path, unet: str = "unet/model.safetensors") -> Path:
    for path, data in {
        "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
        "unet/config.json": b"{}",
        unet: UNET if "fp16" not in unet else HALF,
        "text/model.safetensors": TEXT,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def snapshot(cache: Path, repo: str, revision: str) -> Path:
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / revision


def test_our_own_folder_with_any_variant(place: Path) -> None:
    folder = whole(place / "tiny")
    assert located("tiny", "sd") == folder
    shutil.rmtree(place / "tiny")
    whole(place / "tiny", "unet/model.fp16.safetensors")
    assert located("tiny") == folder
    assert reachable("tiny") == "here"


def test_what_is_missing_is_counted_and_named(place: Path) -> None:
    said = r"model tiny: is not on this machine \(about 65.0 kB\); dreamlab models prefetch tiny, or model: PATH; "
    with pytest.raises(ModelError, match=said + "--on-missing embedded runs on the prior"):
        located("tiny")
    whole(place / "tiny")
    (place / "tiny/unet/model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"tiny lacks 1 files of it \(unet/model.safetensors\); dreamlab models pre"):
        located("tiny")
    with pytest.raises(ModelError, match=r"at most 61.7 kB, gated\); dreamlab models prefetch gate"):
        located("gate")
    with pytest.raises(ModelError, match=r"dreamlab models prefetch split, or model: PATH; --on-missing embedded"):
        located("split")
    assert [reachable(name) for name in ("tiny", "gate", "nothing")] == ["by prefetch", "gated", "unknown"]


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_a_hub_cache_that_is_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    base = tmp_path / "elsewhere"
    monkeypatch.setenv(variable, str(base))
    cache = {"HF_HUB_CACHE": base, "HF_HOME": base / "hub", "XDG_CACHE_HOME": base / "huggingface" / "hub"}[variable]
    old = whole(snapshot(cache, "owner/tiny", "a" * 40))
    assert located("tiny") == old
    new = whole(snapshot(cache, "owner/tiny", "b" * 40))
    os.utime(old, (1, 1))
    assert located("tiny") == new
    (cache / "models--owner--tiny/refs").mkdir()
    (cache / "models--owner--tiny/refs/main").write_text("a" * 40)
    assert located("tiny") == old
    (old / "text/model.safetensors").unlink()
    assert located("tiny") == new  # whole before preferred


def test_a_copy_of_a_mirror_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    theirs = whole(snapshot(tmp_path / "hub", "friend/tiny", "c" * 40))
    assert located("tiny") == theirs


def test_a_model_of_one_file_is_that_file(place: Path) -> None:
    (place / "old").mkdir(parents=True)
    (place / "old/old.pt").write_bytes(b"x")
    assert located("old", "mvdream") == place / "old/old.pt"


def test_shards_are_whole_with_all_of_them(place: Path) -> None:
    folder = place / "split"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    (folder / names[0]).write_bytes(UNET)
    with pytest.raises(ModelError, match="lacks 1 files"):
        located("split")
    (folder / names[1]).write_bytes(UNET)
    assert located("split") == folder
    for name in (*names, "model.safetensors.index.json"):
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(UNET)  # or one file, whatever others have
    assert located("split") == folder


def test_a_place_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whole(tmp_path / "mine")
    (tmp_path / "mine.safetensors").write_bytes(UNET)
    (tmp_path / "notes.md").write_text("no model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located(str(folder), "sd") == located("./mine") == located("mine") == located("~/mine") == folder
    assert located("mine.safetensors") == tmp_path / "mine.safetensors"
    for name, said in {
        "./absent": "model ./absent: no such folder or file",
        "notes.md": "is no file of weights",
        "tiniest": "is not in the registry (did you mean 'tiny'?)",
        "x" * 5000: "is not in the registry",
        "a\0b": "is not in the registry",
    }.items():
        with pytest.raises(ModelError) as caught:
            located(name)
        assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ModelError, match="not on this machine"):
        located("tiny")  # a name of the registry is that model, whatever lies about; ./tiny is the folder


def test_a_folder_or_a_name_of_another_family(place: Path, tmp_path: Path) -> None:
    folder = whole(tmp_path / "mine")
    with pytest.raises(
        ModelError, match=r"is a StableDiffusionPipeline \(sd\), not StableDiffusionXLPipeline: no model"
    ):
        located(str(folder), "sdxl")
    with pytest.raises(ModelError, match=r"tiny: is for guidance sd; for mvdream: old, or model: PATH"):
        located("tiny", "mvdream")
    for said in (b'{"_class_name": "SomethingNew"}', b"no json", b"[]", b'{"_class_name": 7}'):
        (folder / "model_index.json").write_bytes(said)
        assert located(str(folder), "sdxl") == folder  # what it is, its family's loader finds out
    (folder / "model_index.json").unlink()
    (folder / "config.json").write_text('{"architectures": ["MVDreamPipeline"]}')
    with pytest.raises(ModelError, match="is a MVDreamPipeline"):
        located(str(folder), "sdxl")


def test_before_a_run(place: Path, tmp_path: Path) -> None:
    whole(place / "tiny")
    told = supply(["tiny", "gate", "tiny", "split", str(tmp_path)])
    assert told.there == ("tiny", str(tmp_path)) and told.missing == ("gate", "split") and told.gated == ("gate",)
    assert told.bytes == 15424 * 4 + 30848 * 4 and not told.ready and told.fits
    lines = told.lines()
    assert len(lines) == 3 and "dreamlab models prefetch gate split" in lines[1]
    assert supply(["tiny"]).ready and supply(["tiny"]).lines() == ["weights: tiny here"]
    huge = supply(["huge"])
    assert not huge.fits and ": too little; dreamlab models prefetch huge" in huge.lines()[0]
    assert supply(["old"]).open and supply([]).ready
    with pytest.raises(ModelError, match="did you mean 'tiny'"):
        supply(["tinny"])


def test_a_family_in_words(place: Path) -> None:
    assert summary("sdxl") == ("Community", "at most 61.7 kB", "gate gated")
    assert summary("nothing") is None
    whole(place / "tiny")
    licences, sizes, reach = summary("sd") or ("", "", "")
    assert licences == "OpenRAIL or MIT" and sizes == "65.0 kB to 3600000 GB"
    assert reach == "tiny here; split, huge by prefetch"


def test_sizes_as_people_say_them() -> None:
    assert [human(size) for size in (0, 999, 1000, 61_700, 995_000_000, 4_265_076_690)] == [
        "0 B", "999 B", "1.0 kB", "61.7 kB", "995 MB", "4.3 GB"
    ]  # fmt: skip


def test_the_list(models: Models, place: Path) -> None:
    whole(place / "tiny")
    lines = models("ls").out.splitlines()
    assert len(lines) == len(registry().models) == 5
    assert " ".join(lines[0].split()) == "tiny sd about 65.0 kB here OpenRAIL (commercial use: yes)"
    assert " ".join(lines[1].split()) == "gate sdxl at most 61.7 kB gated Community (commercial use: limit)"
    assert [line.split()[0] for line in models("ls", "--family", "mvdream").out.splitlines()] == ["old"]
    told = json.loads(models("ls", "--json").out)
    assert told[0]["where"] == "here" and told[0]["path"] == str(place / "tiny") and told[0]["variants"] == ["fp16"]
    assert told[3]["bytes"] == 0 and told[3]["size"] == "size unknown" and told[1]["gated"] is True
    assert "did you mean 'sdxl'?" in one_line(models("ls", "--family", "sdxxl"), 2)


def test_whose_copy_it_is(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Models) -> None:
    """What another program has fetched is not fetched again."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    theirs = whole(snapshot(tmp_path / "hub", "owner/tiny", "d" * 40))
    found = find(registry().find("tiny"))
    assert found is not None and found.where == "hub cache" and found.path == theirs
    ended = models("prefetch", "tiny", HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "hub"))
    assert ended.code == 0 and ended.out.strip() == str(theirs) and not (place / "tiny").exists()
