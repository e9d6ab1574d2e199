# SPDX-License-Identifier: Apache-2.0
"""The prompt's picture as a truth, and image-to-3D's terms and views in a stage."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dreamlab import recipe
from dreamlab.core.cameras import Cameras, orbit, turntable
from dreamlab.core.colours import oklab
from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.safemath import srgb_to_linear
from dreamlab.core.types import Frames, Prompt, Reference
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from dreamlab.run.assemble import Assembler
from dreamlab.run.telemetry import Ring
from dreamlab.run.train import METRICS, step
from dreamlab.toybox.caption import parse, programs_for
from dreamlab.toybox.draw import draw
from dreamlab.toybox.training.style import repainted
from guidance.picture import LOOKED, SHADES, Picture, near_colours
from systems.palette import nearest
from systems.photometric import Photometric

TEXT = "a red mushroom with a white stem"
RECIPE = """
prompt: a red mushroom with a white stem
stages:
  - name: shape
    scene: {kind: gaussians, count: 1024}
    terms:
      - guidance: picture
        system: {kind: photometric, mask: 0.5, depth: 0.01, rank: 0.01}
        views: given
      - guidance: {kind: oracle, others: 2}
        system: {kind: sds, cfg: 3, t_max: {from: 0.98, to: 0.3}}
        views: others
    steps: 60
    views: 4
    size: 24
    given: {share: {from: 0.5, to: 0.25}, widen: {from: 0.1, to: 1, end: 50%}}
"""


def taken_from(azimuth: float = 30.0, size: int = 48) -> Reference:
    """A true picture, with its depth and normals."""
    camera = orbit([azimuth], 10.0, 3.2, 40.0)
    shown = draw(programs_for(parse(TEXT), 7), camera, size)
    rgb = shown.rgb[0, 0] / shown.alpha[0, 0].clamp(min=1e-6)
    return Reference(rgb, shown.alpha[0, 0], camera, shown.depth[0, 0], shown.normal[0, 0])


def blank(views: int, size: int) -> Frames:
    rgb = torch.zeros(views, size, size, 3)
    return Frames(rgb, rgb[..., :1], rgb[..., :1], torch.rand(views, 3, generator=torch.Generator().manual_seed(0)))


def test_it_stands_over_each_views_background_at_the_frames_size() -> None:
    given, frames = taken_from(), blank(2, 12)
    rows = Picture(Picture.Settings()).condition(Prompt(TEXT, image=given), turntable(2), frames)["truth"].rows
    assert rows["rgb"].shape == (2, 12, 12, 3) and rows["depth"].shape == (2, 12, 12, 1)
    # Pictures of 48 made 12 with antialiasing: the mean over the picture stays.
    for i in range(2):
        expected = (given.rgb * given.alpha + (1 - given.alpha) * frames.background[i]).mean((0, 1))
        torch.testing.assert_close(rows["rgb"][i].mean((0, 1)), expected, rtol=0, atol=2e-3)
    inside = rows["alpha"][0] > 0.99
    known = given.depth[given.alpha > 0.99]  # type: ignore[index]
    assert rows["depth"][0][inside].min() > known.min() - 0.05 and rows["depth"][0][inside].max() < known.max() + 0.05


def test_it_is_certain() -> None:
    guidance, given = Picture(Picture.Settings()), taken_from(size=16)
    condition = guidance.condition(Prompt(TEXT, image=given), orbit([30.0]), blank(1, 16))["truth"]
    z, t = guidance.encode(condition.rows["rgb"]), torch.tensor([400])
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    found = guidance.predict(guidance.table.add_noise(z, noise, t), t, condition)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-5)


LILAC, SAGE, WINE = (torch.tensor(c) for c in ([0.62, 0.50, 0.80], [0.68, 0.71, 0.46], [0.45, 0.08, 0.20]))


def striped(widths: tuple[int, int, int]) -> Reference:
    """Lilac, sage and wine, a band each of so many columns; green where nothing is."""
    bands = [colour.expand(LOOKED, width, 3) for colour, width in zip((LILAC, SAGE, WINE), widths, strict=True)]
    rest = LOOKED - sum(widths)
    rgb = torch.cat([*bands, torch.tensor([0.0, 1.0, 0.0]).expand(LOOKED, rest, 3)], 1)
    alpha = torch.cat([torch.ones(LOOKED, sum(widths), 1), torch.zeros(LOOKED, rest, 1)], 1)
    return Reference(rgb, alpha, orbit([0.0], 20.0))


def test_of_every_colour_it_knows_its_own_nearest() -> None:
    """Its own stay, to a cell of the table; a darker lilac becomes lilac, a brick red wine; green, which is cut away,
    does not stay; of two that are nearly one it is the one that there is more of."""
    table = near_colours(striped((20, 20, 4)))
    for colour in (LILAC, SAGE, WINE):
        torch.testing.assert_close(nearest(table, colour), colour, atol=0.01, rtol=0)
    torch.testing.assert_close(nearest(table, torch.tensor([0.45, 0.36, 0.60])), LILAC, atol=0.01, rtol=0)
    torch.testing.assert_close(nearest(table, torch.tensor([0.5, 0.12, 0.15])), WINE, atol=0.01, rtol=0)
    assert (nearest(table, torch.tensor([0.0, 1.0, 0.0])) - torch.tensor([0.0, 1.0, 0.0])).abs().max() > 0.3
    twins = striped((40, 2, 0))
    twins.rgb[:, 40:42] = LILAC + 0.02
    common = nearest(near_colours(twins), LILAC + 0.02)
    assert (common - LILAC).abs().max() < 0.005


def test_views_are_told_how_far_they_are_turned_from_it() -> None:
    """((1 - cos) / 2 of the angle between the lines of sight; on a level, of the azimuths.)"""
    given = replace(striped((20, 20, 4)), camera=orbit([30.0], 0.0))
    told = Picture(Picture.Settings()).condition(
        Prompt(TEXT, image=given), orbit([30.0, 120.0, 210.0], 0.0), blank(3, 8)
    )["colours"]
    torch.testing.assert_close(told.rows["hidden"], torch.tensor([0.0, 0.5, 1.0]), atol=1e-6, rtol=0)
    assert told.shared["near"].shape == (SHADES, SHADES, SHADES, 3)


def test_a_wrong_back_comes_nearer_to_the_true_one() -> None:
    """The world's own house in colours that have no name, from behind, under a green cast: with the colours of its
    front's picture in place of each, it is half as far from the truth; without the cast it hardly changes."""
    lilac = repainted(programs_for(parse("a gray house with a red roof"), 900), torch.Generator().manual_seed(0))
    shown = draw(lilac, orbit([30.0, 180.0, 230.0], 20.0, 3.2, 42.0), 96)
    straight = shown.rgb[0] / shown.alpha[0].clamp(min=1e-3)
    table = near_colours(Reference(straight[0], shown.alpha[0, 0], orbit([0.0], 20.0)))
    true = straight[1:][shown.alpha[0, 1:, ..., 0] > 0.99]

    def far(colours: torch.Tensor) -> float:
        apart = oklab(srgb_to_linear(colours)) - oklab(srgb_to_linear(true))
        return float((apart * torch.tensor([0.5, 1.0, 1.0])).norm(dim=-1).mean())

    cast = 0.85 * true + 0.15 * torch.tensor([0.2, 0.9, 0.3])
    assert far(nearest(table, cast)) < 0.5 * far(cast)
    assert far(nearest(table, true)) < 0.25 * far(cast)


def test_the_term_of_its_colours_may_see_views_that_it_does_not_show() -> None:
    term = "      - {guidance: picture, system: palette, views: others}\n"
    check(recipe.load(RECIPE.replace("    steps: 60", term.removesuffix("\n") + "\n    steps: 60"), TABLES))
    with pytest.raises(RecipeError, match="palette needs the condition colours, which oracle does not make"):
        check(recipe.load(RECIPE.replace("{kind: sds, cfg: 3, t_max: {from: 0.98, to: 0.3}}", "palette"), TABLES))


def test_what_a_picture_does_not_know_is_said() -> None:
    from tests.systems.test_references import known_sphere

    with pytest.raises(InputError, match="no picture"):
        Picture(Picture.Settings()).condition(Prompt(TEXT), turntable(1), blank(1, 8))
    plain = replace(taken_from(), depth=None, normal=None)
    seen = known_sphere()
    condition = Picture(Picture.Settings()).condition(Prompt(TEXT, image=plain), turntable(2), blank(2, 24))
    seen.conditions = {**seen.conditions, **condition}
    for name in ("depth", "rank", "normal"):
        rule = Photometric(replace(Photometric.Settings(), **{name: Photometric.Settings().rgb}))
        assert seen.frames is not None
        seen.frames = replace(seen.frames, normal=seen.frames.rgb)
        with pytest.raises(InputError, match=f"has no {'normal' if name == 'normal' else 'depth'}"):
            rule.loss(seen)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("views: given", "views: all", "picture knows the given ones alone; write views: given"),
        ("share: {from: 0.5, to: 0.25}", "share: 0", "none is given"),
        ("views: given", "views: front", "known: all, given, others"),
    ],
)
def test_what_cannot_be_meant_is_said_when_the_recipe_is_read(before: str, after: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check(recipe.load(RECIPE.replace(before, after), TABLES))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    wanted = recipe.load(RECIPE, TABLES)
    assert recipe.load(recipe.dump(wanted), TABLES) == wanted
    with pytest.raises(InputError, match="give one with --image"):
        Assembler(wanted, "cpu").stage(0)


def test_a_short_run_comes_to_look_like_the_picture() -> None:
    """From the picture's own camera; and its depth rank and mask follow, with the oracle behind the other views."""
    assembler = Assembler(recipe.load(RECIPE, TABLES), "cpu")
    given = taken_from()
    assembler.prompts = (replace(assembler.prompts[0], image=given),)
    stage = assembler.stage(0)
    ring = Ring(METRICS, 60, "cpu")

    def error(camera: Cameras) -> float:
        with torch.no_grad():
            frames = stage.scene.render(camera, 48, torch.ones(1, 3))
        return float((frames.rgb - (given.rgb * given.alpha + 1 - given.alpha)).square().mean())

    before = error(given.camera)
    for i in range(stage.spec.steps):
        step(stage, i, ring)
    assert all(row["healthy"] == 1 for row in ring.drain())
    assert error(given.camera) < 0.2 * before


def test_a_term_without_a_view_in_a_step_rests() -> None:
    wanted = recipe.load(RECIPE.replace("views: 4", "views: 1"), TABLES, overrides=["stages.0.size=12"])
    assembler = Assembler(wanted, "cpu")
    assembler.prompts = (replace(assembler.prompts[0], image=taken_from()),)
    stage = assembler.stage(0)
    ring = Ring(METRICS, 8, "cpu")
    for i in range(8):
        step(stage, i, ring)
    rms = [row["grad_rms"] for row in ring.drain()]
    assert {value == 0 for value in rms} == {True, False}  # only the oracle's term has a gradient on latents
