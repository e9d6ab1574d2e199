# SPDX-License-Identifier: Apache-2.0
"""What cannot work together is one line when the recipe is read; what can is let through."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from cuda_ext import packages
from dreamlab import recipe
from dreamlab.core.device import known_device
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.settings import with_files
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler

STAGE = """
prompt: a rocking red mushroom with a white stem
stages:
  - name: shape
    scene: {scene}
    terms:
      - guidance: {guidance}
        system: {system}
        {term}
    steps: 4
    views: {views}
    size: 16
    {stage}
"""


def text(
    guidance: str = "{kind: oracle, others: 1}",
    system: str = "sds",
    scene: str = "{kind: gaussians, count: 16}",
    views: int = 4,
    term: str = "",
    stage: str = "",
) -> str:
    return STAGE.format(guidance=guidance, system=system, scene=scene, views=views, term=term, stage=stage)


CLIP = "{kind: oracle, others: 1, clip: %d}"
VIDEO = "{kind: video, frames: %d}"
MOVING = "{kind: gaussians4d, count: 16}"
LENS = "distance: [3.7, 3.7], fovy_deg: [30, 30]"
SIX = f"background: gray\n    cameras: {{ring: 6, azimuth_deg: [30, 30], ring_elevations: [20, -10], {LENS}}}"
ORBIT = f"background: white\n    cameras: {{ring: 21, azimuth_deg: [17.143, 17.143], elevation_deg: [20, 20], {LENS}}}"
BESIDE = "\n    given: {views: 1}"
SEVERAL = "{kind: several, objects: {a: {scene: %s}, b: {scene: gaussians}}}"


@pytest.mark.parametrize(
    "case",
    [
        {"stage": "cameras: {ring: 4}"},
        {"system": "mvdream", "stage": "cameras: {ring: 4}"},
        {"stage": "cameras: {fixed: 8, moving: true, relative: true}"},
        {"guidance": "toybox-views", "stage": "cameras: {ring: 4}"},
        {"guidance": "toybox-views", "views": 8, "stage": "cameras: {ring: 4}"},
        {"guidance": "toybox-views", "views": 2},  # fewer than it was trained with: seen as one small batch
        {"guidance": CLIP % 4, "system": VIDEO % 4, "scene": MOVING, "stage": "cameras: {clip: 4}"},
        {"guidance": "toybox-video", "system": VIDEO % 8, "scene": MOVING, "views": 8, "stage": "cameras: {clip: 8}"},
        {"guidance": CLIP % 4, "system": VIDEO % 4, "scene": MOVING, "views": 8, "stage": "cameras: {clip: 4}"},
        {"guidance": "{kind: oracle, others: 1, grids: true}", "system": "grid", "views": 8},
        {"scene": "{kind: field, density: volsdf}", "stage": "regularisers: {eikonal: 0.1}"},
        {"scene": "{kind: field, normals: finite}", "stage": "regularisers: {orient: 0.1}"},
        {"scene": "{kind: field, latent: true}", "term": "see: latent"},
        {"guidance": "truth", "system": "{kind: photometric, normal: 1}"},
        {"guidance": "zero123plus", "views": 6, "stage": SIX},
        {"guidance": "sv3d", "views": 21, "stage": ORBIT.replace("20, 20", "0, 40")},  # told its cameras' heights
        {"guidance": "{kind: sv3d, model: sv3d-u}", "views": 42, "stage": ORBIT},
        {"guidance": "dreamt", "views": 6, "stage": SIX, "system": "photometric"},
        {"guidance": "{kind: dreamt, by: sv3d}", "views": 21, "stage": ORBIT, "system": "photometric"},
        {"guidance": "zero123plus", "views": 13, "stage": SIX + BESIDE, "term": "views: others"},
        {"guidance": "{kind: zero123plus, version: v1.1}", "views": 6, "stage": SIX.replace("20, -10", "30, -20")},
        {"scene": "{kind: field, hashgrid: {layout: tcnn}, backend: native}"},
        {"scene": "{kind: mesh, material: hash, hashgrid: {layout: tcnn, growth: 1.3}, backend: torch}"},
    ],
    ids=str,
)
def test_what_fits_is_let_through(case: dict[str, str]) -> None:
    check(recipe.load(text(**case), TABLES))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"stage": "cameras: {ring: 3}"}, "4 views are no rings of 3"),
        ({"stage": "cameras: {clip: 3}", "scene": MOVING}, "4 views are no clips of 3"),
        ({"stage": "cameras: {clip: 4, ring: 4}", "scene": MOVING}, "leave one of the two out"),
        ({"stage": "cameras: {fixed: 8, ring: 4}"}, "cameras.ring: cameras.fixed never change"),
        ({"stage": "cameras: {fixed: 8, clip: 4}"}, "cameras.clip: cameras.fixed never change"),
        ({"stage": "cameras: {fixed: 8, jitter_up: 0.1}"}, "cameras.jitter_up: cameras.fixed never change"),
        ({"stage": "cameras: {fixed: 8, jitter_target: 0.1}"}, "cameras.jitter_target: cameras.fixed never change"),
        ({"stage": "cameras: {fixed: 8, jitter_position: 1}"}, "cameras.jitter_position: cameras.fixed never change"),
        ({"stage": "cameras: {ring_jitter: true}"}, "ring_jitter: there is no ring"),
        ({"stage": "cameras: {ring_elevations: [1]}"}, "ring_elevations: there is no ring"),
        ({"stage": "cameras: {ring: 4, ring_elevations: [1, 2, 3]}"}, "ring_elevations: 3 do not go into a ring of 4"),
        ({"stage": "given: {views: 5}"}, "given.views: 5 of 4 views"),
        ({"stage": "given: {views: 1, share: 0.5}"}, "given.views: 1 and a share"),
        ({"stage": "cameras: {ring: 4}" + BESIDE}, "or keep rings whole beside it: views: 5, given.views"),
        ({"guidance": "zero123plus"}, "looks at 6 views together; 4 is no multiple"),
        (
            {"guidance": "zero123plus", "views": 6},
            "set cameras: {ring: 6, azimuth_deg: [30, 30], ring_elevations: [20, -10]}",
        ),
        ({"guidance": "zero123plus", "views": 6, "stage": SIX.replace("gray", "white")}, "set the stage's background"),
        ({"guidance": "sv3d", "views": 21, "system": VIDEO % 21, "stage": ORBIT}, "video scores whole clips"),
        (
            {"guidance": "{kind: sv3d, model: sv3d-u}", "views": 21, "stage": ORBIT.replace("20, 20", "10, 10")},
            "ring_elevations: [20]",
        ),
        ({"guidance": "sv3d", "views": 7, "stage": ORBIT.replace("21", "7")}, "looks at 21 views together; 7 is no"),
        ({"guidance": "dreamt", "views": 6, "stage": SIX}, "needs the condition null, text, which dreamt does not"),
        (
            {"guidance": "zero123plus", "views": 6, "stage": SIX.replace("h_deg: [30, 30]", "h_deg: [0, 0]")},
            "6 fixed cameras",
        ),
        ({"guidance": "zero123plus", "views": 6, "stage": SIX.replace("20, -10", "30, -20")}, "6 fixed cameras"),
        ({"guidance": "zero123plus", "views": 6, "stage": SIX.replace("-10]", "-10], jitter_up: 1")}, "jitter_up to 0"),
        ({"guidance": "zero123plus", "views": 6, "stage": SIX.replace("[3.7, 3.7]", "[3, 4]")}, "set cameras.distance"),
        ({"guidance": "toybox-views", "views": 6}, "looks at 4 views together; 6 is no multiple"),
        ({"guidance": "toybox-views", "views": 8, "stage": "cameras: {ring: 8}"}, "and cameras.ring is 8"),
        ({"guidance": "toybox-views", "views": 8, "term": "sample: 4"}, "would see views drawn one by one"),
        ({"guidance": "toybox-views", "scene": MOVING, "stage": "cameras: {clip: 4}"}, "looks at views of one moment"),
        # Sixteen frames and a model of eight: two scenes of eight, without a word until now.
        (
            {"guidance": "toybox-video", "system": VIDEO % 16, "views": 16, "stage": "cameras: {clip: 16}"},
            "looks at clips of 8 frames, and cameras.clip is 16",
        ),
        ({"guidance": "toybox-video", "system": "sds", "views": 8}, "clips of 8 frames, and cameras.clip is 0"),
        ({"guidance": CLIP % 4, "system": VIDEO % 2, "stage": "cameras: {clip: 4}"}, "system.frames: 2, and the stage"),
        ({"guidance": CLIP % 2, "system": VIDEO % 4, "stage": "cameras: {clip: 4}"}, "looks at clips of 2 frames"),
        ({"guidance": "{kind: oracle, grids: true}", "system": "grid", "views": 6}, "takes views by 4, and sees 6"),
        ({"guidance": "{kind: oracle, grids: true}", "system": "grid", "term": "sample: 3"}, "by 4, and sees 3"),
        ({"system": "{kind: mvdream, group: 2}", "stage": "cameras: {ring: 4}"}, "system.group: 2, and 4 views"),
        ({"system": "order", "views": 2}, "compares at least 3 views, and sees 2"),
        ({"scene": "field", "stage": "regularisers: {eikonal: 0.1}"}, "eikonal: this field needs density: volsdf or"),
        ({"scene": "field", "stage": "regularisers: {orient: 0.1}"}, "orient: this field needs normals: analytic"),
        ({"scene": MOVING, "stage": "regularisers: {plane_tv: 0.1}"}, "plane_tv: this gaussians4d needs deform.kind"),
        ({"scene": "field", "guidance": "toybox-control"}, "toybox-control needs normals"),
        ({"scene": "field", "term": "see: normal"}, "see: normal needs normals"),
        ({"scene": "field", "term": "see: latent"}, "see: latent: the scene renders no latents"),
        (
            {"scene": "field", "guidance": "truth", "system": "{kind: photometric, normal: 1}"},
            "system.normal needs normals",
        ),
        ({"scene": "{kind: field, shading: {lit: 0.5}}"}, "shading.lit: a lit field needs normals"),
        ({"scene": "{kind: gaussians, start: file}"}, "start: file needs `file: FILE`"),
        ({"scene": "{kind: dmtet, start: mesh}"}, "start: mesh needs `mesh: FILE`"),
        ({"scene": "{kind: mesh, shading: pbr, lights: []}"}, "needs at least one of `lights`"),
        ({"scene": "{kind: several, objects: {}}"}, "objects: name at least one"),
        ({"system": "{kind: vsd, net: adapter}"}, "trains an adapter, which oracle does not offer"),
        (
            {"scene": "{kind: field, backend: nvdiffrast}"},
            "scene.backend: nvdiffrast runs raster, interpolate, texture",
        ),
        ({"scene": "{kind: field, backend: gsplat}"}, "call; packages that it can use: nerfacc, tinycudann"),
        (
            {"scene": "{kind: mesh, backend: tinycudann}"},
            "which this mesh does not call; packages that it can use: nvd",
        ),
        ({"scene": "{kind: dmtet, backend: tinycudann}"}, "backend: tinycudann has other tables than layout own"),
        ({"scene": "{kind: field, hashgrid: {growth: 1.5}}"}, "hashgrid.growth: layout own grows to `finest`"),
        ({"scene": "{kind: field, hashgrid: {layout: tcnn, growth: 9}}"}, "growth 9.0 must be at least 1 and end at"),
        ({"scene": SEVERAL % "{kind: field, backend: gsplat}"}, "scene.objects.a.backend: gsplat runs splat, which th"),
        ({"scene": SEVERAL % "{kind: gaussians, backend: torch}"}, "need the same dilation, compensate and backend"),
        ({"system": "{kind: bootstrapped, width: 10}"}, "width 10 is not a multiple of 4"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_line_that_says_where(case: dict[str, str], said: str) -> None:
    with pytest.raises(RecipeError) as error:
        check(recipe.load(text(**case), TABLES))  # type: ignore[arg-type]
    assert said in str(error.value) and str(error.value).startswith("stages.0 ('shape')")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("scene", "package"),
    [
        ("{kind: gaussians, backend: gsplat}", "gsplat"),
        ("{kind: dmtet, backend: nvdiffrast}", "nvdiffrast"),
        ("{kind: field4d, backend: nerfacc}", "nerfacc"),
        ("{kind: hyper_field, backend: tinycudann, hashgrid: {layout: tcnn}}", "tinycudann"),
    ],
)
def test_what_a_package_lacks_is_one_line(scene: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed; installed for a torch that has no CUDA, for one that sees no device, and for a run on the CPU."""
    wanted = recipe.load(text(scene=scene), TABLES)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        RecipeError, match=rf"^stages\.0 \('shape'\)\.scene\.backend: {package}: it is not installed .*lice"
    ):
        check(wanted)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        RecipeError, match=rf"{package}: it runs on CUDA only, and this torch has no CUDA; auto is ours"
    ):
        check(wanted)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=rf"{package}: it runs on CUDA only, and no CUDA device is visible"):
        check(wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check(wanted)
    with pytest.raises(RecipeError, match=rf"backend: {package}: it runs on CUDA only, and the run is on cpu"):
        Assembler(wanted, "cpu")


def test_every_packaged_recipe_passes() -> None:
    for name in recipe.names():
        check(recipe.load(recipe.find(name), TABLES))


def test_cards_belong_to_settings_and_every_entry_has_one() -> None:
    """Of each table, at the defaults: sets of names, counts that are counts; and the settings are dataclasses."""
    for kind, scene in TABLES.scenes.items():
        card = scene.card(scene.Settings())
        assert set(card.lacking) <= set(card.penalties), kind
    for kind, rule in TABLES.systems.items():
        asked = rule.card(rule.Settings())
        assert asked.views >= 1 and asked.least >= 1 and fields(rule.Settings()) is not None, kind  # type: ignore[arg-type]
    for kind, guidance in TABLES.guidance.items():
        told = guidance.card(guidance.Settings())
        assert told.conditions and told.together >= 1, kind


def test_what_a_guidance_says_of_itself_is_so() -> None:
    """The conditions that a card names are those that the built guidance makes, and abilities are methods it has."""
    import torch

    from dreamlab.core.cameras import orbit
    from dreamlab.core.types import Adapting, Encoder, Framer, Frames, Prompt
    from dreamlab.run.worlds import worlds_of

    frames = Frames(*(torch.zeros(1, 64, 64, c) for c in (3, 1, 1)), torch.ones(1, 3), torch.zeros(1, 64, 64, 3))
    cameras = orbit([0.0])
    for kind in ("oracle", "truth", "toybox", "toybox-views", "toybox-control"):
        entry = TABLES.guidance[kind]
        card = entry.card(entry.Settings())
        guidance = entry.build(entry.Settings(), worlds_of(0))
        assert set(guidance.condition(Prompt("a red mushroom"), cameras, frames)) == card.conditions, kind
        assert isinstance(guidance, Adapting) == card.adapter and isinstance(guidance, Encoder) == card.encodes
        assert isinstance(guidance, Framer) == card.frames_picture


def test_unknown_devices_are_one_line() -> None:
    assert known_device("cpu").type == "cpu"
    for name in ("tpu", "cpu:1", "cuda:x", "", "CUDA"):
        with pytest.raises(RecipeError, match="cpu or cuda"):
            known_device(name)
    with pytest.raises(InputError, match="use --device cpu"):
        known_device("cuda:99")


def test_files_are_found_and_changed_wherever_settings_name_them() -> None:
    scene = "{kind: several, objects: {a: {scene: {kind: mesh, file: a.glb, lights: [studio, b.hdr]}}}}"
    made = recipe.load(text(scene=scene), TABLES)
    found: list[tuple[str, str]] = []
    changed = with_files(made, lambda kind, name: found.append((kind, name)) or f"own.{name}")
    assert found == [("mesh", "a.glb"), ("light", "b.hdr")]  # no names of what is shipped
    inner = changed.stages[0].scene.settings.objects["a"].scene.settings
    assert (inner.file, inner.lights) == ("own.a.glb", ("studio", "own.b.hdr"))
    assert made.stages[0].scene.settings.objects["a"].scene.settings.file == "a.glb"  # the first is as it was
