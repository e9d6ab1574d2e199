# SPDX-License-Identifier: Apache-2.0
"""A scene's `backend` reaches every op that its pictures and its penalties call, and its card names those ops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from cuda_ext import backend, build
from cuda_ext.packages import PACKAGES, able
from dreamlab import recipe
from dreamlab.core.cameras import orbit
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Maker, Training
from dreamlab.recipe.tables import TABLES
from renderers import OPS
from renderers.backing import GridSettings

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="needs a C++ compiler")
SCENES = {
    "gaussians": ("{kind: gaussians, count: 30, sh_degree: 1}", {"splat"}),
    "moving gaussians": ("{kind: gaussians4d, count: 30}", {"splat"}),
    "field": ("{kind: field, normals: analytic, %s}", {"hashgrid", "march"}),
    "distance field": ("{kind: field, density: neus, samples_per_ray: 20, %s}", {"hashgrid", "march"}),
    "moving field": ("{kind: field4d, normals: finite, %s}", {"hashgrid", "march"}),
    "generator": ("{kind: hyper_field, %s}", {"hashgrid", "march"}),
    "tetrahedra": ("{kind: dmtet, resolution: 8, levels: 3}", {"raster", "interpolate", "antialias", "hashgrid"}),
    "mesh": ("{kind: mesh, faces: 40, texture: 16, shading: pbr}", {"raster", "interpolate", "antialias", "texture"}),
    "hash mesh": (
        "{kind: mesh, faces: 40, texture: 16, material: hash, levels: 3}",
        {"raster", "interpolate", "antialias", "hashgrid"},
    ),
    "moving mesh": (
        "{kind: mesh4d, faces: 40, texture: 16, deform: {kind: control, points: 8}}",
        {"raster", "interpolate", "antialias", "texture"},
    ),
    "moving hash mesh": (
        "{kind: mesh4d, faces: 40, texture: 16, material: hash, levels: 3, deform: {kind: control, points: 8}}",
        {"raster", "interpolate", "antialias", "hashgrid"},
    ),
}
SMALL = "levels: 3, base: 4, finest: 16, log2_entries: 9, occupancy: 8, step: 0.2, hashgrid: {layout: tcnn}"
TEXT = """
prompt: a red ball
stages:
  - name: shape
    scene: {scene}
    terms: [{{guidance: oracle, system: sds}}]
"""


def settings_of(name: str, backend_name: str) -> tuple[str, Any]:
    """(kind, settings) of one of SCENES."""
    written = SCENES[name][0].replace("%s", SMALL)
    spec = recipe.load(TEXT.format(scene=written), TABLES).stages[0].scene
    return spec.kind, replace(spec.settings, backend=backend_name)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """(op, backend) of every op that is called, as it is asked for."""
    seen: list[tuple[str, str]] = []
    choose = backend.choose

    def listening(op: str, name: str, like: torch.Tensor) -> str:
        seen.append((op, name))
        return choose(op, name, like)

    monkeypatch.setattr(backend, "choose", listening)
    yield seen


def pictures(kind: str, settings: Any, called: list[tuple[str, str]]) -> list[torch.Tensor]:
    """Of a training step, whose penalties and gradients run too, and of looking."""
    scene = TABLES.scenes[kind](settings, torch.Generator().manual_seed(3))
    if isinstance(scene, Maker):
        scene.tell(torch.ones(1, settings.code))
    called.clear()  # what is built is built by ours
    shown = scene.made(0) if isinstance(scene, Maker) else scene
    cameras = orbit([30.0], 10.0)
    training = Training(Progress(3, 10), torch.Generator().manual_seed(1))
    drawn = shown.render(cameras, 12, torch.ones(1, 3), training)
    card = TABLES.scenes[kind].card(settings)
    penalties = [shown.penalty(name, drawn) for name in card.penalties if name not in card.lacking]
    parameters = [group.tensor for group in scene.groups().values()]
    torch.autograd.grad(drawn.rgb.square().sum() + sum(penalties), parameters, allow_unused=True)
    with torch.no_grad():
        looked = shown.render(cameras, 12, torch.ones(1, 3))
    return [drawn.rgb, drawn.alpha, drawn.depth, looked.rgb]


@needs_compiler
@pytest.mark.parametrize("name", SCENES)
def test_every_op_runs_on_the_backend_of_the_scene(name: str, called: list[tuple[str, str]]) -> None:
    found = {}
    for wanted in ("torch", "native"):
        kind, settings = settings_of(name, wanted)
        found[wanted] = pictures(kind, settings, called)
        assert set(called) == {(op, wanted) for op in SCENES[name][1]}
    for ours, twin in zip(found["native"], found["torch"], strict=True):
        assert (ours - twin).abs().mean() <= 1e-4 * twin.abs().mean()


@pytest.mark.parametrize("name", SCENES)
def test_the_card_names_the_packages_of_those_ops(name: str) -> None:
    kind, settings = settings_of(name, "torch")
    (runs,) = TABLES.scenes[kind].card(settings).backing
    assert runs.backend == "torch"
    assert set(runs.able) == set(able(*SCENES[name][1]))
    assert SCENES[name][1] <= set(OPS[kind])


def test_the_table_of_kinds_names_no_op_that_none_of_them_calls() -> None:
    called: dict[str, set[str]] = {kind: set() for kind in TABLES.scenes}
    for name, (_, ops) in SCENES.items():
        called[settings_of(name, "torch")[0]] |= ops
    assert called == {kind: set(ops) for kind, ops in OPS.items()}


@pytest.mark.parametrize(("name", "package"), [("gaussians", "gsplat"), ("field", "nerfacc"), ("mesh", "nvdiffrast")])
def test_a_package_is_asked_for_its_ops_alone_and_never_left_out_silently(
    name: str, package: str, called: list[tuple[str, str]]
) -> None:
    """On the CPU it cannot run: that is said, and nothing else draws."""
    kind, settings = settings_of(name, package)
    with pytest.raises(ValueError, match=rf"'{package}' is not available: it (is not installed|runs on CUDA only)"):
        pictures(kind, settings, called)
    assert {who for op, who in called if op in PACKAGES[package].ops} == {package}
    assert {who for op, who in called if op not in PACKAGES[package].ops} <= {"auto"}


def test_a_table_of_another_layout_is_refused_though_it_is_as_long() -> None:
    """Every level hashed: both layouts have as many rows."""
    kind, settings = settings_of("field", "torch")
    many = replace(settings, log2_entries=5, base=9)
    other = replace(many, hashgrid=GridSettings())
    first, second = (TABLES.scenes[kind](s, torch.Generator().manual_seed(0)) for s in (many, other))
    state = first.state_dict()
    assert state["table"].shape == second.state_dict()["table"].shape
    with pytest.raises(ValueError, match="hashgrid and hidden must be equal"):
        second.load_state_dict(state)
    first.load_state_dict(state)
    del state["levels"]  # as states were while there was one layout
    with pytest.raises(KeyError, match="levels"):
        first.load_state_dict(state)
    before = second.state_dict()
    del before["levels"]
    second.load_state_dict(before)
