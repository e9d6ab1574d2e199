# SPDX-License-Identifier: Apache-2.0
"""From what the user wrote to what the run is made of: command line, overrides, bounds, the frame of a given picture,
names of regularisers and rates, and the views that a stage's cameras describe."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreamlab import pipeline, recipe
from dreamlab.core.cameras import OrbitSettings, orbit, sample_orbit
from dreamlab.core.errors import RecipeError
from dreamlab.core.schedules import Progress, Schedule, constant
from dreamlab.core.types import Frames, Reference
from dreamlab.core.views import GivenViews, sample_views
from dreamlab.recipe.picture import PictureSettings, read_picture
from dreamlab.recipe.tables import TABLES
from dreamlab.run.folder import Run
from renderers.field4d import Field4D
from renderers.gaussians import Gaussians
from renderers.gaussians4d import Gaussians4D
from renderers.hash_field import HashField
from renderers.mesh import TexturedMesh
from systems.engine.regularisers import REGULARISERS
from tests.conftest import TINY, Commands


def test_what_the_command_line_says_is_what_the_run_is_made_of(dreamlab: Commands, tiny: Path) -> None:
    """A real run of two steps; the words are literal, whatever they look like in YAML."""
    words = "a red mushroom with a white stem"
    ended = dreamlab(
        "dream", words, "stages.finer.steps=1", "stages.0.steps=1", "seed=7", "stages.shape.cameras.fovy_deg=[30, 50]",
        "--negative", "a cube", "--recipe", str(tiny), "--out", "here"
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (folder,) = (dreamlab.folder / "here").iterdir()
    made = pipeline.load_recipe(Run.open(folder))
    assert (made.prompt, made.negative, made.seed) == (words, "a cube", 7)
    assert [stage.steps for stage in made.stages] == [1, 1]
    assert [stage.cameras.fovy_deg for stage in made.stages] == [(30.0, 50.0), OrbitSettings().fovy_deg]
    assert made.stages[0].terms[0].system.settings.cfg == constant(1.5), "what was not said stays"
    assert Run.open(folder).spec()["prompt"] == words and Run.open(folder).state()["step"] == 2


def test_another_kind_leaves_nothing_of_the_old_one() -> None:
    changed = recipe.load(TINY, TABLES, overrides=["stages.0.terms.0.system={kind: csd, text: 2}"])
    system = changed.stages[0].terms[0].system
    assert system.kind == "csd" and system.settings.text == constant(2.0) and not hasattr(system.settings, "cfg")
    merged = recipe.load(TINY, TABLES, overrides=["stages.0.terms.0.system.weight=uniform"])
    system = merged.stages[0].terms[0].system
    assert system.kind == "sds" and system.settings.cfg == constant(1.5) and system.settings.weight == "uniform"


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("stages.0.steps", ["1"], ["0"]),
        ("stages.0.size", ["8", "2048"], ["7", "2049"]),
        ("stages.0.scene.radius", ["0.001", "2"], ["0", "2.001"]),
        ("stages.0.terms.0.system.t_max", ["0", "1"], ["-0.001", "1.001"]),
        ("stages.0.cameras.fovy_deg", ["[0.1, 170]"], ["[0, 30]", "[30, 171]", "[40, 30]"]),
    ],
)
def test_bounds_are_where_they_are_said_to_be(setting: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        recipe.load(TINY, TABLES, overrides=[f"{setting}={value}"])
    for value in bad:
        with pytest.raises(RecipeError, match=setting.split(".")[-1]):
            recipe.load(TINY, TABLES, overrides=[f"{setting}={value}"])


@pytest.mark.parametrize("fill", [0.5, 0.8])
def test_an_object_beside_the_middle_is_centred_and_fills_its_share(tmp_path: Path, fill: float) -> None:
    """24 wide and 12 high, in the upper right of 100 x 60."""
    pixels = np.zeros((60, 100, 4), np.uint8)
    pixels[6:18, 70:94] = (200, 30, 60, 255)
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    (tmp_path / "p.png").write_bytes(kept.getvalue())
    reference = read_picture(tmp_path / "p.png", PictureSettings(fill=fill))
    there = reference.alpha[..., 0] > 0.5
    rows, columns = (torch.nonzero(there.any(axis)).flatten() for axis in (1, 0))
    side = len(there)
    assert there.shape == (side, side)
    for line, share in ((rows, fill / 2), (columns, fill)):
        assert (float(line[0]) + float(line[-1]) + 1) / 2 == pytest.approx(side / 2, abs=0.03 * side)
        assert len(line) / side == pytest.approx(share, abs=0.05)


def test_smoothness_is_of_the_picture_it_is_named_after() -> None:
    """All four regularisers of frames against numpy, on maps that have nothing in common."""
    g = torch.Generator().manual_seed(0)
    rgb, alpha, depth = (torch.rand(2, 5, 6, c, generator=g) for c in (3, 1, 1))
    frames = Frames(rgb, alpha, 3 * depth, torch.zeros(2, 3))

    def total(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture, axis=2)).mean() + np.abs(np.diff(picture, axis=1)).mean())

    a = alpha.numpy().astype(float)
    expected = {
        "opacity": np.sqrt(a**2 + 0.01).mean(),
        "opaque": -(a * np.log(a) + (1 - a) * np.log(1 - a)).mean(),
        "smooth_rgb": total(rgb.numpy()),
        "smooth_depth": total(3 * depth.numpy()),
    }
    assert REGULARISERS.keys() == expected.keys()
    for name, value in expected.items():
        assert float(REGULARISERS[name](frames)) == pytest.approx(value, rel=1e-4), name


SMALL: dict[str, Any] = {"levels": 3, "log2_entries": 8, "finest": 12, "hidden": 4, "occupancy": 8}
NAMED: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, str]]] = {
    "gaussians": (Gaussians, {"count": 8, "sh_degree": 1}, {
        "means": "lr_means", "log_scales": "lr_scales", "quats": "lr_quats", "logit_opacity": "lr_opacity",
        "logit_color": "lr_color", "sh_rest": "lr_sh"}),
    "gaussians4d": (Gaussians4D, {"count": 80}, {"means": "lr_means", "quats": "lr_quats"}),
    "field": (HashField, SMALL | {"density": "volsdf"}, {
        "table": "lr_table", "density.hidden": "lr_heads", "density.out": "lr_heads", "color.hidden": "lr_heads",
        "color.out": "lr_heads", "beta": "lr_beta"}),
    "field4d": (Field4D, SMALL | {"moments": 2}, {"table": "lr_table", "temporal": "lr_temporal"}),
    "mesh": (TexturedMesh, {"material": "hash", "texture": 32, "unwrap": "own", "faces": 300}, {
        "table": "lr_table", "layer1": "lr_network", "layer2": "lr_network", "bias": "lr_network"}),
    "texture": (TexturedMesh, {"material": "texture", "texture": 32, "unwrap": "own", "faces": 300},
                {"texture": "lr_texture"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_every_parameter_of_a_scene_learns_at_the_rate_of_its_name(kind: str) -> None:
    """Each rate of its own, so that no two can be exchanged."""
    made, settings, names = NAMED[kind]
    rates = {name: constant(0.001 * (i + 1)) for i, name in enumerate(sorted(set(names.values())))}
    scene = made(made.Settings(**settings, **rates), torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    groups = scene.groups()
    for parameter, rate in names.items():
        found: Schedule = groups[parameter].rate
        assert found.at(Progress(0, 10)) == rates[rate].at(Progress(0, 10)), parameter
        assert groups[parameter].tensor.requires_grad and groups[parameter].tensor.is_leaf
    assert all(group.rowwise == (kind.startswith("gaussians") and len(group.tensor) == len(scene.params["means"]))
               for name, group in groups.items() if name in names)  # fmt: skip


# ---- views ----------------------------------------------------------------------------------------------------------
def drawn(count: int, **settings: Any) -> Any:
    return sample_orbit(OrbitSettings(**settings), count, torch.Generator().manual_seed(5))


def test_a_ring_stands_around_in_equal_turns_at_one_height_distance_and_lens() -> None:
    cameras = drawn(8, ring=4)
    for first in (0, 4):
        group = slice(first, first + 4)
        turns = torch.remainder(cameras.azimuth_deg[group].diff(), 360.0)
        torch.testing.assert_close(turns, torch.full((3,), 90.0), atol=1e-3, rtol=0)
        for value in (cameras.elevation_deg, cameras.distance, cameras.fovy_deg):
            torch.testing.assert_close(value[group], value[first].expand(4), atol=1e-4, rtol=0)
    assert abs(float(cameras.elevation_deg[0] - cameras.elevation_deg[4])) > 0.01


def test_a_clip_is_one_camera_and_its_frames_are_even_parts_of_the_time() -> None:
    cameras = drawn(8, clip=4, time=(0.2, 0.8))
    assert cameras.time is not None
    for first in (0, 4):
        group = slice(first, first + 4)
        assert (cameras.camera_to_world[group] == cameras.camera_to_world[first]).all()
        times = torch.remainder(cameras.time[group] - cameras.time[first], 0.6)
        torch.testing.assert_close(times, torch.tensor([0.0, 0.15, 0.3, 0.45]), atol=1e-5, rtol=0)
        assert ((cameras.time[group] >= 0.2) & (cameras.time[group] <= 0.8)).all()


def test_given_views_come_first_and_the_others_widen_from_the_picture_s_camera() -> None:
    """Elevations of -10 to 60 and all azimuths, narrowed to a quarter towards azimuth 100, elevation 20."""
    picture = Reference(torch.zeros(8, 8, 3), torch.ones(8, 8, 1), orbit([100.0], 20.0, 2.5, 50.0))
    given, stream = GivenViews(constant(0.25), constant(0.25)), torch.Generator().manual_seed(0)
    cameras, own = sample_views(OrbitSettings(), given, 64, picture, Progress(3, 10), stream)
    assert own == 16 and len(cameras) == 64
    torch.testing.assert_close(cameras.azimuth_deg[:16], torch.full((16,), 100.0))
    torch.testing.assert_close(cameras.fovy_deg[:16], torch.full((16,), 50.0))
    azimuth, elevation = cameras.azimuth_deg[16:], cameras.elevation_deg[16:]
    assert 55 <= azimuth.min() < 65 and 135 < azimuth.max() <= 145
    assert 12.5 <= elevation.min() < 15 and 27 < elevation.max() <= 30
