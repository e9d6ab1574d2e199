# SPDX-License-Identifier: Apache-2.0
"""Motion in the exported file: a viewer written from the specification plays it beside the scene's own pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.export import export_mesh
from dreamlab.recipe import load
from dreamlab.recipe.tables import TABLES
from dreamlab.run.folder import Run
from renderers.gaussian.deform import DeformSettings
from renderers.gaussians4d import Gaussians4D
from tests.conftest import TINY
from tests.export.viewer import Glb, pinhole

SIZE, MOMENTS = 96, 5
SECONDS = 2.0  # the length that docs/output.md promises


def arm() -> Gaussians4D:
    """Gaussians along a bar of 1.2 m; in time its upper half bends towards +X and all of it rises; still at 0."""
    g = torch.Generator().manual_seed(0)
    s = Gaussians4D.Settings(
        count=600, radius=0.5, opacity=0.9, deform=DeformSettings(points=12, moments=MOMENTS, nearest=3)
    )
    scene = Gaussians4D(s, g)
    means = torch.rand(600, 3, generator=g) * torch.tensor([0.3, 1.2, 0.3]) - torch.tensor([0.15, 0.6, 0.15])
    state = {name: value for name, value in scene.state_dict().items() if not name.startswith("deform")}
    state |= {"means": means, "log_scales": torch.full((600, 3), 0.05).log()}
    scene.load_state_dict(state)  # its control points spread over the bar
    motion = scene.motions[0]
    anchors, time = motion.params["anchors"].detach(), torch.linspace(0, 1, MOMENTS)[:, None]
    poses = torch.zeros(MOMENTS, len(anchors), 6)
    upper = (anchors[:, 1] > 0).float()
    poses[..., 0] = 0.5 * time * upper * anchors[:, 1].clamp(min=0) / 0.6
    poses[..., 1] = 0.25 * time
    poses[..., 5] = -0.35 * time * upper  # half the angle's tangent about +Z, clockwise from the front
    motion.load({**motion.params, "poses": poses})
    return scene


def file_of(tmp_path: Path, scene: Gaussians4D) -> Glb:
    recipe = load(TINY, TABLES, overrides=["export.resolution=40", "export.faces=1500"])
    run = Run.create(tmp_path, TINY, recipe.prompt, [])
    export_mesh(run, recipe, scene, 7)
    return Glb((run.export / "model.glb").read_bytes())


def test_a_motion_that_cannot_be_read_back_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a file that stands still."""
    monkeypatch.setenv("DREAMLAB_FAULT", "reading the motion of model.glb back:crash")
    with pytest.warns(UserWarning, match=r"reading the motion of model.glb back: its process died by SIGSEGV"):
        file_of(tmp_path, arm())
    (report,) = tmp_path.rglob("report.json")
    assert "check" not in json.loads(report.read_text())


def covered(scene: Gaussians4D, points: np.ndarray, time: float) -> float:
    """The share of points that lie on what the scene shows at a time, from the front and from the right."""
    found = []
    for azimuth in (0.0, 90.0):
        camera = orbit([azimuth], 0.0, 3.6, 50.0)
        with torch.no_grad():
            frames = scene.render(replace(camera, time=torch.tensor([time])), SIZE, torch.zeros(1, 3))
        column, row, _ = pinhole(points, azimuth, 0.0, 3.6, 50.0, SIZE)
        x, y = (np.clip(np.round(value - 0.5).astype(int), 0, SIZE - 1) for value in (column, row))
        found.append((frames.alpha[0, y, x, 0].numpy() > 0.1).mean())
    return float(np.mean(found))


def test_the_file_moves_as_the_scene_does(tmp_path: Path) -> None:
    """The file's vertices are about where the scene's own motion takes them, which jumps a little between the sets of
    its control points; and at every time they lie on the scene's picture of that time, not on that of another."""
    scene = arm()
    glb = file_of(tmp_path, scene)
    rest = glb.attribute("POSITION")
    assert glb.lasts == pytest.approx(SECONDS)
    np.testing.assert_allclose(glb.points(None), rest, atol=1e-5)
    np.testing.assert_allclose(glb.points(0.0), rest, atol=1e-5)
    start = torch.from_numpy(rest.copy())
    for time in (0.25, 0.4, 0.5, 0.9, 1.0):
        moved = glb.points(SECONDS * time)
        with torch.no_grad():
            wanted = rest + scene.motions[0].at(start, torch.tensor(time)).shift.numpy()
        assert np.abs(moved - rest).max() > 0.08
        off = np.linalg.norm(moved - wanted, axis=1)
        assert np.sqrt(np.square(off).mean()) < 0.02 and np.quantile(off, 0.95) < 0.05, time
        assert covered(scene, moved, time) > 0.97
    assert covered(scene, rest, 1.0) < 0.8 and covered(scene, glb.points(SECONDS), 0.0) < 0.8


def test_by_hand_the_top_swings_to_the_right_and_up(tmp_path: Path) -> None:
    """Signs: seen from the front the bar's top ends to the right of where it began, and higher by its rise."""
    glb = file_of(tmp_path, arm())
    rest, last = glb.points(0.0), glb.points(SECONDS)
    low = rest[:, 1] < -0.45
    np.testing.assert_allclose((last - rest)[low].mean(0), [0.0, 0.25, 0.0], atol=0.03)
    top = rest[:, 1] > 0.5
    assert (last - rest)[top, 0].mean() > 0.4
    # The top is turned: what was its left side is now above its right side.
    left, right = top & (rest[:, 0] < -0.08), top & (rest[:, 0] > 0.08)
    assert last[left, 1].mean() - last[right, 1].mean() > 0.1
