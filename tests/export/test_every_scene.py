# SPDX-License-Identifier: Apache-2.0
"""`export RUN --formats all --preset unity` of every kind of scene, again and again, without touching the run; what
moves in the scene moves in the file, or the report says why it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh

from dreamlab import pipeline
from dreamlab.core.formats import missing
from dreamlab.export.formats import WRITERS
from dreamlab.run import train
from dreamlab.run.checkpoint import committed
from tests.device.runs import MOVING, SCENES, begun, cheap, recipe_of
from tests.export.viewer import Glb

__all__ = ["cheap"]
KINDS = ("mcmc", "fused", "control", "mlp", "hexplane", "field", "field4d", "hyper_field", "dmtet", "mesh", "mesh_hash",
         "several")  # fmt: skip
CLOUDS = ("mcmc", "fused", "control", "mlp", "hexplane")
OWN = {"glb": "model.glb", "gltf": "model.gltf", "obj": "model.obj", "ply": "model.ply", "stl": "model.stl",
       "usdz": "model.usdz", "splat-glb": "splats.glb", "splat-ply": "splats.ply", "splat": "splats.splat",
       "spz": "splats.spz", "splat-frames": "splats_frames.zip"}  # fmt: skip
THROUGH_BLENDER = ("control", "mesh")
SMALL = ("export.formats=all", "export.preset=unity", "export.texture=32", "export.fit=false")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_of_every_kind_of_scene(
    kind: str, tmp_path: Path, cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind not in THROUGH_BLENDER:  # which takes seconds for every file
        monkeypatch.setenv("DREAMLAB_BLENDER", str(tmp_path / "none"))
    run, wanted, assembler = begun(recipe_of(SCENES[kind], kind in MOVING), tmp_path, "cpu")
    train.train(run, wanted, assembler)
    run.set_state(state="succeeded")
    before = {path.name: path.read_bytes() for path in committed(run.ckpt)[-1].iterdir()}
    paths = pipeline.export_again(run, "cpu", SMALL)
    report = json.loads((run.export / "report.json").read_text())
    written = {entry["format"] for entry in report["files"].values()}
    splats = {name for name in WRITERS if WRITERS[name].of == "splats"}
    writable = {name for name in WRITERS if not missing(name)}
    expected = writable - (set() if kind in CLOUDS else splats)
    expected -= set() if kind in MOVING else {"splat-frames"}
    assert expected <= written, (expected - written, report["notes"])
    assert {path.relative_to(run.export).as_posix() for path in paths if path.parent == run.export} <= set(
        report["files"]
    )
    for name in expected & OWN.keys():
        assert (run.export / OWN[name]).stat().st_size > 100, name
        assert (run.export / "unity" / OWN[name]).is_file(), name
    glb = Glb((run.export / "model.glb").read_bytes())
    assert len(glb.faces) == report["mesh"]["triangles"] > 3 and report["check"]["psnr"] > 5
    assert len(trimesh.load(run.export / "model.stl").faces) == len(glb.faces)
    if kind in MOVING:
        assert "animations" in glb.document or report["motion"].get("way"), report["motion"]
    first = (run.export / "model.glb").read_bytes()
    pipeline.export_again(run, "cpu", SMALL[1:])
    assert (run.export / "model.glb").read_bytes() == first, "the same again"
    assert {path.name: path.read_bytes() for path in committed(run.ckpt)[-1].iterdir()} == before


def test_what_a_scene_cannot_be_is_said(tmp_path: Path, cheap: None) -> None:
    run, wanted, assembler = begun(recipe_of(SCENES["dmtet"]), tmp_path, "cpu")
    train.train(run, wanted, assembler)
    with pytest.warns(UserWarning, match="splat: not written: the scene is not made of Gaussians"):
        pipeline.export_again(run, "cpu", ["export.formats=glb,splat", "export.texture=0", "export.fit=false"])
    assert (run.export / "model.glb").is_file() and not list(run.export.glob("splats*"))
