# SPDX-License-Identifier: Apache-2.0
"""The registry beside `guidance.layouts`, which was written from the published folders: the same files, as many
numbers in each. And `dreamlab models random`, which writes them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from dreamlab.hub import places
from dreamlab.hub.reading import read
from dreamlab.hub.registry import HubModel, packaged
from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct, in_file
from guidance.layouts.random import write_random
from tests.conftest import Commands
from tests.hub.conftest import one_line

MODELS = read(packaged()).models
FOLDERS = [model for model in MODELS.values() if model.layout and not model.alone and model.repo]


def test_every_layout_that_is_named_exists() -> None:
    assert {model.layout for model in MODELS.values()} - {""} <= set(LAYOUTS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layouts")


@pytest.mark.parametrize("model", FOLDERS, ids=lambda model: model.name)
def test_a_folder_as_users_have_it_is_whole(model: HubModel, tiny: Path) -> None:
    """What the registry fetches is what the layout writes; pickles stand for what safetensors hold there."""
    folder = tiny / model.layout
    if not folder.exists():
        write_random(model.layout, "tiny", folder)
    lacks = places.missing(model, folder)
    assert [path for path in lacks if not path.endswith((".bin", ".index.json"))] == []
    listed = {*model.small, *model.maybe, *(weight.path for weight in model.weights)}
    beside = {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")}
    unknown = {path for path in beside - listed if not path.endswith(".index.json")}
    assert not {path for path in unknown if not path.startswith(("safety_checker/", "watermarker/"))}


@pytest.mark.parametrize("model", FOLDERS, ids=lambda model: model.name)
def test_as_many_numbers(model: HubModel) -> None:
    for part in LAYOUTS[model.layout].parts:
        if part.folder in ("safety_checker", "watermarker"):
            continue
        specs = in_file(part, construct(part, "full"), "fp32", "full")
        count = sum(spec.count for spec in specs.values() if spec.dtype != "int64")
        known = [weight for weight in model.weights if weight.path.rpartition("/")[0] == part.folder]
        assert known, (model.name, part.folder)
        for weight in known:
            assert weight.params in (0, count), (weight.path, count)


def test_a_random_folder_by_the_command(dreamlab: Commands, tmp_path: Path) -> None:
    ended = dreamlab("models", "random", "sd15", "--out", "made")
    assert ended.code == 0 and ended.out == "made\n", ended.err
    folder = dreamlab.folder / "made"
    assert places.missing(MODELS["sd15"], folder) == []
    with (folder / "unet/diffusion_pytorch_model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    shapes = [each["shape"] for name, each in header.items() if name != "__metadata__"]
    assert len(shapes) == 208 and sum(map(math.prod, shapes)) == 53_284  # counted in guidance.md 12.2
    assert "no such layout" in one_line(dreamlab("models", "random", "sd16", "--out", "other"))
    assert "--size 'huge'" in one_line(dreamlab("models", "random", "sd15", "--size", "huge", "--out", "other"), 2)
    assert "none that can be written" in one_line(dreamlab("models", "random", "dmd2", "--out", "other"))
    assert not (dreamlab.folder / "other").exists()
