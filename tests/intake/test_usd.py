# SPDX-License-Identifier: Apache-2.0
"""USD in, by Pixar's library where it is there; without it a line says what to install."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlab.core.errors import InputError
from dreamlab.core.foreign.asset import read_asset
from dreamlab.core.foreign.headers import Refused
from dreamlab.core.foreign.shape import read_shape
from dreamlab.core.foreign.usd import read_usd
from dreamlab.intake.painting import MAPS, painted, taken
from renderers.surface.stretch import canvas_of
from tests.intake.judges import Seen, issues
from tests.intake.test_texture_only import ORIGIN, paint

THERE = importlib.util.find_spec("pxr") is not None
STAGE = """#usda 1.0
(
    defaultPrim = "Root"
    metersPerUnit = 0.01
    upAxis = "Z"
)
def Xform "Root" {extra}
{{
    def Mesh "roof" {{
        point3f[] points = [(0, 0, 0), (200, 0, 0), (200, 100, 0), (0, 100, 0), (100, 50, 80)]
        int[] faceVertexCounts = [4, 3, 3, 3, 3]
        int[] faceVertexIndices = [3, 2, 1, 0, 0, 1, 4, 1, 2, 4, 2, 3, 4, 3, 0, {last}]
        color3f[] primvars:displayColor = [(1, 0, 0)] (interpolation = "constant")
        double3 xformOp:translate = (0, 0, 300)
        uniform token[] xformOpOrder = ["xformOp:translate"]
    }}
    def Mesh "hidden" {{
        point3f[] points = [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
        int[] faceVertexCounts = [3]
        int[] faceVertexIndices = [0, 1, 2]
        token visibility = "invisible"
    }}
}}
"""


def stage(folder: Path, extra: str = "", last: int = 4) -> Path:
    (folder / "a.usda").write_text(STAGE.format(extra=extra, last=last))
    return folder / "a.usda"


def test_without_the_library_a_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(Refused, match="pip install usd-core"):
        read_usd(stage(tmp_path))
    if not THERE:
        with pytest.raises(InputError, match=r"a.usda: is read with .* pip install usd-core"):
            read_asset(stage(tmp_path), "mesh")


def test_a_stage_is_read_in_metres_and_upright(tmp_path: Path) -> None:
    """Two metres wide, one deep, its tip at 3.8 m; the sides are cut into triangles, the hidden mesh is left out."""
    pytest.importorskip("pxr")
    shape = read_shape(stage(tmp_path), "mesh")
    assert len(shape.faces) == 6 and shape.colours is not None
    np.testing.assert_allclose(shape.vertices.amin(0), [0, 3.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(shape.vertices.amax(0), [2.0, 3.8, 0.0], atol=1e-6)
    torch.testing.assert_close(shape.colours, torch.tensor([[1.0, 0, 0]]).expand(18, 3), atol=1e-3, rtol=0)
    a, b, c = shape.vertices[shape.faces].unbind(1)
    assert float((a * torch.linalg.cross(b, c)).sum() / 6) == pytest.approx(2 * 1 * 0.8 / 3, rel=1e-5)  # outward


@pytest.mark.node
def test_a_stage_is_painted_into_a_glb(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    asset = read_asset(stage(tmp_path), "mesh")
    canvas = canvas_of(asset, "a")
    files = painted(taken(tmp_path / "a.usda"), canvas, paint(canvas), ORIGIN, "a", MAPS, asset)
    assert list(files) == ["a.glb"]
    (tmp_path / "a.glb").write_bytes(files["a.glb"])
    (sheet,) = Seen(tmp_path / "a.glb").sheets()
    np.testing.assert_allclose(sheet.places, asset.points[asset.faces], atol=1e-6)
    assert not issues(tmp_path / "a.glb")


@pytest.mark.parametrize(("extra", "last", "words"), [
    ("(references = @/etc/passwd@)", 4, "brings in '/etc/passwd'; flatten it"),
    ("(payload = @http://127.0.0.1:9/a.usd@)", 4, "brings in 'http://127.0.0.1:9/a.usd'"),
    ("", 99, "names corner 99, and there are 5"),
    ("{", 4, "is no USD"),
])  # fmt: skip
def test_what_is_elsewhere_or_damaged_is_refused(extra: str, last: int, words: str, tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    with pytest.raises(InputError) as caught:
        read_asset(stage(tmp_path, extra, last), "mesh")
    assert words in str(caught.value) and "\n" not in str(caught.value)
