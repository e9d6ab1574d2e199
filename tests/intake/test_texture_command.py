# SPDX-License-Identifier: Apache-2.0
"""`dreamlab texture` from end to end, in a few steps against true pictures of the world."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Commands
from tests.intake.awkward import AWKWARD
from tests.intake.judges import Seen
from tests.intake.painting import PAINTING


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "paint.yaml").write_text(PAINTING)
    return str(tmp_path / "paint.yaml")


def test_a_rigged_asset_is_painted_and_stays_what_it_is(dreamlab: Commands, recipe: str, tmp_path: Path) -> None:
    (tmp_path / "model.glb").write_bytes(AWKWARD["rigged"]().bytes())
    out = str(tmp_path / "out.glb")
    ended = dreamlab("texture", "model.glb", "a red mushroom", "-o", out, "--recipe", recipe, "stages.0.size=24")
    assert ended.code == 0, ended.err
    was, now = Seen(tmp_path / "model.glb"), Seen(tmp_path / "out.glb")
    assert ended.out.splitlines()[-1] == out and now.binary.startswith(was.binary)
    assert [now.document[key] for key in ("meshes", "nodes", "skins", "animations")] == [
        was.document[key] for key in ("meshes", "nodes", "skins", "animations")
    ]
    told = now.document["asset"]["extras"]["dreamlab"]
    assert told["prompt"] == "a red mushroom" and told["recipe"]["stages"][0]["size"] == 24
    (old,), (new,) = was.document["materials"], now.document["materials"]
    base = now.picture(new["pbrMetallicRoughness"]["baseColorTexture"]["index"])
    assert base.size == (64, 64) and np.asarray(base).std() > 0
    # Flat shading learns no roughness: the file's own numbers stay.
    kept = {key: old["pbrMetallicRoughness"][key] for key in ("metallicFactor", "roughnessFactor")}
    assert {key: new["pbrMetallicRoughness"][key] for key in kept} == kept

    (run,) = (tmp_path / "runs").iterdir()
    first = hashlib.sha256((tmp_path / "out.glb").read_bytes()).hexdigest()
    again = dreamlab("texture", str(run))
    assert again.code == 0, again.err
    assert again.out.splitlines() == [str(run / "painted" / "model.glb")]
    files = {path.name: path.read_bytes() for path in (run / "painted").iterdir()}
    assert hashlib.sha256(files["model.glb"]).hexdigest() == first and (run / "asset" / "model.glb").is_file()
    assert (run / "export" / "model.glb").read_bytes() != files["model.glb"]


def test_shared_texels_learn_from_all_places(dreamlab: Commands, recipe: str, tmp_path: Path) -> None:
    (tmp_path / "m.glb").write_bytes(AWKWARD["mirrored"]().bytes())
    ended = dreamlab("texture", "m.glb", "a red mushroom", "--recipe", recipe)
    assert ended.code == 0 and "texels are shared" in ended.err, ended.err
    (run,) = (tmp_path / "runs").iterdir()
    assert "material: texture" in (run / "recipe.yaml").read_text()
    ended = dreamlab("texture", "m.glb", "a red mushroom", "--recipe", recipe, "--fresh-uv", "-o", "f.glb")
    assert ended.code == 0, ended.err
    (primitive,) = Seen(tmp_path / "f.glb").document["meshes"][0]["primitives"]
    assert {"TEXCOORD_0", "TEXCOORD_1"} <= set(primitive["attributes"])


@pytest.mark.parametrize(("words", "code", "said"), [
    (["m.glb"], 2, "texture needs a prompt"),
    (["m.glb", "a duck", "-o", "m.glb"], 3, "is the file itself"),
    (["m.glb", "a duck", "-o", "m.obj"], 3, "name it m.glb"),
    (["m.glb", "a duck", "--maps", "bse"], 2, "'bse' is none of them (did you mean 'base'?)"),
    (["m.glb", "a duck", "--up", "x"], 2, "--up"),
    (["m.txt", "a duck"], 3, "must be one of .glb"),
    (["none.glb", "a duck"], 3, "no such file"),
    (["m.glb", "a duck", "--recipe", "toybox"], 2, "asset is not a setting of scenes 'gaussians'"),
    (["empty"], 3, "not a run folder"),
])  # fmt: skip
def test_what_cannot_be_meant_is_one_line(words: list[str], code: int, said: str, dreamlab: Commands,
                                          tmp_path: Path) -> None:  # fmt: skip
    (tmp_path / "m.glb").write_bytes(AWKWARD["webp"]().bytes())
    (tmp_path / "m.txt").write_text("no mesh")
    (tmp_path / "empty").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    ended = dreamlab("texture", *words)
    lines = [line for line in ended.err.splitlines() if not line.startswith("note:")]
    assert ended.code == code and len(lines) == 1 and said in lines[0], ended.err
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(("out", "err")))
    assert left == before  # no folder of a run
