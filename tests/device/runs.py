# SPDX-License-Identifier: Apache-2.0
"""Small runs of every kind of scene, for a device that is given by name."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import pytest
import torch

from dreamlab import pipeline, recipe
from dreamlab.core.types import Scene
from dreamlab.export import check, motion, registration
from dreamlab.recipe.tables import TABLES
from dreamlab.run import train
from dreamlab.run.assemble import Assembler, BuiltStage
from dreamlab.run.folder import Run
from dreamlab.run.preview import save_preview
from dreamlab.run.telemetry import Ring
from renderers import become, dmtet, mesh
from renderers.surface import extraction, finish, shapes, views
from renderers.surface.material import SurfaceField

CLOUD = "{kind: gaussians, count: 48, radius: 0.5, opacity: 0.6}"
GRID = "levels: 4, log2_entries: 10, finest: 16, occupancy: 8, hidden: 8, step: 0.1, refresh: 2"
SKIN = "faces: 200, resolution: 16, texture: 32, levels: 3, finest: 16"
TETS = "{kind: dmtet, resolution: 8, levels: 3, finest: 16, tidy: 2}"
GROWING = "begin: 0, end: 1, every: 2, cap: 80"
SCENES = {
    "adaptive": f"{{kind: gaussians, count: 48, radius: 0.5, opacity: 0.6, "
    f"densify: {{kind: adaptive, gradient: 1.0e-9, reset_every: 4, reset_opacity: 0.5, {GROWING}}}}}",
    "mcmc": f"{{kind: gaussians, count: 48, radius: 0.5, sh_degree: 1, densify: {{kind: mcmc, {GROWING}}}}}",
    "fused": CLOUD[:-1] + ", surface: fusion}",
    "control": "{kind: gaussians4d, count: 48, radius: 0.5, opacity: 0.6, deform: {points: 6, moments: 4}}",
    "mlp": "{kind: gaussians4d, count: 48, radius: 0.5, opacity: 0.6, deform: {kind: mlp, hidden: 8}}",
    "hexplane": "{kind: gaussians4d, count: 48, radius: 0.5, opacity: 0.6, segments: 2, "
    "deform: {kind: hexplane, resolution: 4, channels: 4, loop: true}}",
    "field": f"{{kind: field, {GRID}, normals: analytic}}",
    "field_sky": f"{{kind: field, {GRID}, normals: finite, noise: 0.1, background: {{kind: environment}}, "
    "shading: {lit: 1.0}, samples_per_ray: 8}",
    "field_latent": f"{{kind: field, {GRID}, latent: true}}",
    "field_distance": f"{{kind: field, {GRID}, density: volsdf}}",
    "field4d": f"{{kind: field4d, {GRID}, moments: 3, temporal_log2: 6, temporal_finest: 8}}",
    "hyper_field": f"{{kind: hyper_field, {GRID}, code: 8, hyper: 8}}",
    "dmtet": TETS,
    "dmtet_normal": TETS.replace("tidy: 2", "shows: normal"),
    "mesh": f"{{kind: mesh, {SKIN}, bump: 0.5, shading: pbr, lights: [studio, sky]}}",
    "mesh_hash": f"{{kind: mesh, {SKIN}, unwrap: own, material: hash, bump: 0.5}}",
    "mesh_shadows": f"{{kind: mesh, {SKIN}, shading: montecarlo, samples: 1}}",
    "mesh4d": f"{{kind: mesh4d, {SKIN}, deform: {{whole: true, smooth: true, points: 6, moments: 5}}}}",
    "several": f"{{kind: several, objects: {{a: {{scene: {CLOUD}, position: [0, 0.4, 0], scale: 0.6}}, "
    f"b: {{scene: {{kind: field, {GRID}}}}}, c: {{scene: {TETS}, position: [0, -0.5, 0], scale: 0.5}}, "
    f"d: {{scene: {{kind: mesh, {SKIN}}}, position: [0.5, 0, 0], scale: 0.3}}}}}}",
}
MOVING = ("control", "mlp", "hexplane", "field4d", "mesh4d")

TEXT = """
prompt: a yellow duck jumping
stages:
  - name: shape
    scene: {scene}
    terms: [{{guidance: truth, system: {{kind: photometric, mask: 0.1}}}}]
    steps: 4
    views: 2
    size: 12
    cameras: {{moving: {moving}}}
export: {{resolution: 16, texture: 0, fit: false, turntable: 3, size: 32, formats: [glb, obj, ply]}}
keeping: {{checkpoint: 2, keep: 2, preview: 4, log: 2}}
"""


def recipe_of(scene: str, moving: bool = False) -> str:
    return TEXT.format(scene=scene, moving=str(moving).lower())


def begun(text: str, folder: Path, device: str, *overrides: str) -> tuple[Run, recipe.Recipe, Assembler]:
    """A run folder of a recipe, and what builds its stages."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(text)
    run = pipeline.create(None, folder / "recipe.yaml", folder / "runs", overrides, None, [])
    wanted = pipeline.load_recipe(run)
    return run, wanted, Assembler(wanted, device, run.path)


def steps(stage: BuiltStage, numbers: Sequence[int], device: torch.device) -> list[dict[str, float]]:
    """The figures of some steps."""
    ring = Ring(train.METRICS, len(numbers), device)
    for i in numbers:
        train.step(stage, i, ring)
    return ring.drain()


@pytest.fixture
def cheap() -> Iterator[None]:
    """The same paths with fewer pictures, samples and steps where a scene's surface is looked for or taken over."""
    learn, distances, registered = SurfaceField.learn, shapes.signed_distances, motion.registered

    def shortly(self, params, points, values, count, *more):  # type: ignore[no-untyped-def]
        learn(self, params, points, values, 2, *more)

    with (
        mock.patch.multiple(views, VIEWS=2, SIZE=24),
        mock.patch.multiple(extraction, SIZE=24, LOOKS=2, FUSED=4, REFINED=0),
        mock.patch.multiple(finish, TAKEN=3, VIEWS=2, SIZE=24),
        mock.patch.multiple(check, VIEWS=2, SIZE=24, SHOWN=2, MOMENTS=1),
        mock.patch.object(motion, "registered", lambda *them: registered(*them, 4)),
        mock.patch.multiple(registration, CELLS=32, POINTS=1000),
        mock.patch.multiple(mesh, PAINT_VIEWS=2, PAINT_SIZE=16),
        mock.patch.object(become, "RESOLUTION", 12),
        mock.patch.object(train, "save_preview", functools.partial(save_preview, size=16)),
        mock.patch.object(dmtet, "signed_distances", lambda *them: distances(*them, 2000)),
        mock.patch.object(SurfaceField, "learn", shortly),
    ):
        yield


def scene_of(words: str, device: str) -> tuple[Scene, torch.Generator]:
    """A scene as a stage begins with it, and the stream that it was drawn from."""
    assembler = Assembler(recipe.load(recipe_of(words), TABLES), device)
    return assembler.scenes(assembler.recipe.stages[0]), assembler.streams.init
