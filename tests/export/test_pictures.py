# SPDX-License-Identifier: Apache-2.0
"""What people look at shows the file that lies on the disk, and the scene beside it: a file of another colour is seen
to be one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamlab.cli.inspection import describe
from dreamlab.export import export_pictures
from dreamlab.export.formats import WRITERS
from dreamlab.export.product import Product
from tests.wiring.test_assets import Solid, ball, exported
from tests.wiring.test_pictures import cells, frames_of

SIZE = 80
WANTED = ("export.texture=0", "export.fit=false", f"export.size={SIZE}", "export.turntable=4")


def middle(cell: np.ndarray) -> np.ndarray:
    centre = slice(SIZE // 2 - 6, SIZE // 2 + 6)
    return cell[centre, centre].reshape(-1, 3).mean(0)


def test_the_file_is_shown_beside_the_scene(tmp_path: Path) -> None:
    plain = replace(ball(3), colours=torch.tensor([0.1, 0.2, 0.8]).expand(len(ball(3).vertices), 3).contiguous())
    scene = Solid(plain)
    run, recipe = exported(tmp_path, scene, "glb", settings=(*WANTED, "export.pictures=[sheet,mp4,gif,poster]"))
    other = replace(plain, colours=torch.tensor([0.8, 0.2, 0.1]).expand_as(plain.colours).contiguous())
    (run.export / "model.glb").write_bytes(WRITERS["glb"].write(Product("ball", other))["model.glb"])
    paths = export_pictures(run, recipe, scene, 7, torch.device("cpu"))  # type: ignore[arg-type]
    assert [path.name for path in paths] == ["contact.png", "poster.png", "turntable.gif", "turntable.mp4"]
    assert f"prompt   {recipe.prompt}" in describe(paths[0]) and f"prompt   {recipe.prompt}" in describe(paths[1])
    found = cells(paths[0], SIZE)
    assert len(found) == 24
    for row in range(6):
        for cell in found[4 * row : 4 * row + 4]:
            colour = (204, 51, 26) if row % 2 == 0 else (26, 51, 204)
            np.testing.assert_allclose(middle(cell), colour, atol=2)
    poster = np.asarray(Image.open(paths[1]))
    assert poster.shape == (512, 512, 3)
    np.testing.assert_allclose(poster[250:262, 250:262].reshape(-1, 3).mean(0), (204, 51, 26), atol=2)
    with Image.open(paths[2]) as gif:
        assert gif.n_frames == 4 and gif.size == (2 * SIZE, SIZE) and gif.info["loop"] == 0
    import imageio_ffmpeg

    assert imageio_ffmpeg.count_frames_and_secs(str(paths[3]))[0] == 4


def test_without_a_file_of_this_step_the_scene_is_shown_alone(tmp_path: Path) -> None:
    scene = Solid(ball(2))
    run, recipe = exported(tmp_path, scene, "glb", settings=WANTED)
    paths = export_pictures(run, recipe, scene, 9, torch.device("cpu"))  # type: ignore[arg-type]
    assert len(cells(paths[0], SIZE)) == 12 and len(frames_of(paths[2], SIZE)) == 4
    (run.export / "model.glb").write_bytes(b"glTF")
    assert export_pictures(run, recipe, scene, 7, torch.device("cpu")), "a file that nobody can read"  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["obj", "stl"])
def test_the_best_file_there_is_is_shown(tmp_path: Path, kind: str) -> None:
    scene = Solid(ball(2))
    run, recipe = exported(tmp_path, scene, kind, settings=(*WANTED, "export.pictures=[sheet]"))
    (path,) = export_pictures(run, recipe, scene, 7, torch.device("cpu"))  # type: ignore[arg-type]
    found = cells(path, SIZE)
    assert len(found) == 24
    like = np.abs(middle(found[0]) - middle(found[4])).max()
    assert like < 6 if kind == "obj" else like > 20, (like, "an STL has no colours, and is shown so")
