# SPDX-License-Identifier: Apache-2.0
"""What assets tell of themselves: inspect shows it, and dropping the file back in makes the same run again."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import find
from dreamlab.core.errors import DreamError, InputError
from dreamlab.intake.looking import described, picture_size
from dreamlab.intake.provenance import lacking, origin_in, recalled
from dreamlab.recipe import as_plain, load
from dreamlab.recipe.tables import TABLES
from tests.conftest import Commands
from tests.hostile.test_meshes import cube_ply, obj, packed
from tests.hostile.test_pictures import chunk, png
from tests.intake.awkward import AWKWARD

ORIGIN = {"prompt": 'a "red" duck: 7 %', "seed": 11, "version": "0.1.0", "step": 5,
          "models": [{"id": "dreamlab/toybox", "licence": "Apache-2.0"}]}  # fmt: skip


def with_recipe(**changes: Any) -> dict[str, Any]:
    plain = as_plain(load(find("toybox"), TABLES, prompt="a red duck", overrides=["seed=11", "steps=2"]))
    return ORIGIN | {"recipe": plain | changes}


def written(folder: Path, kind: str, origin: dict[str, Any]) -> Path:
    """A file that tells `origin`, by the formats' own specifications."""
    line = json.dumps(origin)
    path = folder / f"a.{kind}"
    if kind == "glb":
        document = {"asset": {"version": "2.0", "extras": origin}}
        path.write_bytes(packed(json.dumps(document).encode(), b""))
    elif kind == "gltf":
        path.write_text(json.dumps({"asset": {"version": "2.0", "extras": {"theirs": 1, "dreamlab": origin}}}))
    elif kind == "png":
        told = b"dreamlab\0\1\0\0\0" + zlib.compress(line.encode())
        path.write_bytes(png(64, 32, zlib.compress(b"\0" * 193 * 32), chunk(b"iTXt", told)))
    elif kind == "ply":
        path.write_bytes(cube_ply().replace(b"1.0\n", f"1.0\ncomment dreamlab {line}\n".encode(), 1))
    elif kind == "obj":
        path.write_bytes(f"# DreamLab\n# dreamlab {line}\n".encode() + obj())
    else:
        text = f"#usda 1.0\n(\n    customLayerData = {{\n        string dreamlab = {json.dumps(line)}\n    }}\n)\n"
        path.write_text(text)
        if kind == "usdz":
            import zipfile

            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr("model.usda", text)
    return path


KINDS = ("glb", "gltf", "png", "ply", "obj", "usda", "usdz")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_tells_its_origin(kind: str, tmp_path: Path) -> None:
    origin = with_recipe()
    path = written(tmp_path, kind, origin)
    assert origin_in(path) == origin
    again = load(recalled(path), TABLES)
    assert again == load(find("toybox"), TABLES, prompt="a red duck", overrides=["seed=11", "steps=2"])
    if kind not in ("glb", "gltf", "usda"):
        told = "\n".join(described(path))
        assert 'prompt   a "red" duck: 7 %' in told and "seed     11" in told and "dreamlab/toybox (Apache-2.0)" in told


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_tell_nothing_say_so(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind, {})
    assert origin_in(path) == {}
    with pytest.raises(InputError, match="tells nothing of how it was made"):
        recalled(path)


def test_a_recipe_in_a_file_is_data(tmp_path: Path) -> None:
    """Unknown keys, kinds and values are refused as in any recipe; files that it names are not opened."""
    for changes, words in (
        ({"import": "os"}, "is not a setting of a recipe"),
        ({"stages": [{"name": "a", "scene": "os.system", "terms": []}]}, "is not one of the scenes"),
        ({"seed": "__import__('os')"}, "must be a whole number"),
        ({"stages": []}, "at least one stage"),
        ({"prompt": "\x1b[2J"}, "prompt"),
    ):
        with pytest.raises(DreamError) as caught:
            recalled(written(tmp_path, "glb", with_recipe(**changes)))
        assert words in str(caught.value) and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    recipe = with_recipe()
    scene = recipe["recipe"]["stages"][0]["scene"]
    recipe["recipe"]["stages"][0]["scene"] = scene | {"start": "file", "file": "/etc/passwd"}
    recipe["recipe"]["image"]["file"] = "../../secret.png"
    text = recalled(written(tmp_path, "png", recipe))
    assert sorted(lacking(text, [])) == ["../../secret.png", "/etc/passwd"]
    assert lacking(text, ["stages.0.scene.file=mine.ply", "image.file=me.png"]) == []
    assert "/etc/passwd" not in [value for value in yaml.safe_load(text)["stages"][0]["scene"].values()]


def test_dropping_a_file_back_in_makes_the_run_again(dreamlab: Commands, finished_run: Path, tmp_path: Path) -> None:
    """The same recipe, and on one thread the same bytes of the optimised scene; by --from, or the file alone."""
    before = (finished_run / "recipe.yaml").read_text()
    from dreamlab.run.checkpoint import committed

    def tensors(run: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(committed(run / "ckpt")[-1].glob("*.safetensors"))]

    file = str(finished_run / "export" / "model.glb")
    for words in (["--from", file], [file]):
        ended = dreamlab("dream", *words)
        assert ended.code == 0, ended.err
        run = tmp_path / ended.out.splitlines()[-1]
        assert (run / "recipe.yaml").read_text() == before and tensors(run) == tensors(finished_run)
    ended = dreamlab("dream", "a blue duck", "--from", file, "steps=1")
    assert ended.code == 0, ended.err
    changed = yaml.safe_load((tmp_path / ended.out.splitlines()[-1] / "recipe.yaml").read_text())
    assert changed["prompt"] == "a blue duck" and [stage["steps"] for stage in changed["stages"]] == [1, 1]


def test_what_a_run_lacked_is_asked_for(dreamlab: Commands, tmp_path: Path) -> None:
    recipe = with_recipe()
    recipe["recipe"]["stages"][0]["scene"] |= {"start": "file", "file": "shape.ply"}
    path = written(tmp_path, "glb", recipe)
    ended = dreamlab("dream", "--from", str(path))
    assert ended.code == 3 and "names 'shape.ply', which it does not hold" in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_inspect_knows_what_moves_and_what_is_worn(tmp_path: Path) -> None:
    (tmp_path / "rigged.glb").write_bytes(AWKWARD["rigged"]().bytes())
    (tmp_path / "materials.glb").write_bytes(AWKWARD["materials"]().bytes())
    (tmp_path / "webp.glb").write_bytes(AWKWARD["webp"]().bytes())
    rigged, worn, webp = (described(tmp_path / f"{name}.glb") for name in ("rigged", "materials", "webp"))
    assert "skin     : 2 joints" in rigged and "morphs   1 targets" in rigged
    assert "motion   nod: 1 s, 2 keys, 1 channels (rotation)" in rigged
    assert "material glass: blend" in worn and "texture  base colour, sRGB: 64 x 32 PNG, by TEXCOORD_0" in worn
    assert "texture  roughness and metallic, linear: 16 x 16 PNG, by TEXCOORD_0" in worn
    assert "uses     EXT_texture_webp" in webp and any("64 x 64 WebP" in line for line in webp)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_sizes_are_read_off_the_head_of_a_picture(form: str) -> None:
    import io

    from PIL import Image

    for lossless in (True, False):
        kept = io.BytesIO()
        Image.new("RGB", (75, 33), (1, 2, 3)).save(kept, form, **({"lossless": lossless} if form == "WEBP" else {}))
        assert picture_size(kept.getvalue()).lower() == f"75 x 33 {form.lower()}"
    assert picture_size(struct.pack("<I", 7)) == "no PNG, JPEG or WebP"
