# SPDX-License-Identifier: Apache-2.0
"""How the prompt is put to the model, from the recipe's words to the gradient on the scene, by hand on the toy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamlab.core.cameras import orbit
from dreamlab.core.streams import derive
from dreamlab.core.types import Reference
from dreamlab.run.assemble import BuiltStage
from tests.wiring.toy import SAYS, Toy, flat, gradient, stepped, term, tile
from tests.wiring.toy import toys as toys

pytestmark = pytest.mark.usefixtures("toys")
PIXELS = 8 * 8
V = {name: np.array(value) for name, value in SAYS.items()}
CAMERA = "cameras: {{azimuth_deg: [{0}, {0}], elevation_deg: [{1}, {1}]}}"


def asked(prompting: str, azimuth: float, elevation: float = 0.0, rule: str = "") -> np.ndarray:
    """g of a step whose cameras all stand at one place."""
    more = f"prompting: {{{prompting}}}"
    stage = Toy(terms=term(rule=rule, more=more), stage=CAMERA.format(azimuth, elevation)).built()
    stepped(stage)
    return (gradient(stage) / (2 * PIXELS)).numpy()


def test_the_negative_prompt_reaches_the_model_and_its_answer_the_gradient() -> None:
    stage = Toy(negative="a cube", terms=term(rule="negative: -0.5, null: 0")).built()
    stepped(stage)
    assert [prompt.negative for prompt, _, _ in flat(stage).asked] == ["a cube"]
    expected = torch.from_numpy(V["text"] - 0.5 * V["negative"]).float()
    torch.testing.assert_close(gradient(stage), 2 * PIXELS * expected)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "word", "more"),
    [
        (0.0, 0.0, "front", ""),
        (40.0, 0.0, "front", ""),
        (-40.0, 0.0, "front", ""),
        (40.0, 0.0, "side", ", front_deg: 30"),
        (90.0, 0.0, "side", ""),
        (-100.0, 0.0, "side", ""),
        (170.0, 0.0, "back", ""),
        (-140.0, 0.0, "back", ""),
        (140.0, 0.0, "side", ", front_deg: 30"),
        (170.0, 70.0, "overhead", ""),
        (170.0, 50.0, "overhead", ", overhead_deg: 45"),
        (170.0, 50.0, "back", ""),
    ],
)
def test_hard_words_of_direction_are_those_of_the_camera(
    azimuth: float, elevation: float, word: str, more: str
) -> None:
    np.testing.assert_allclose(asked(f"views: hard{more}", azimuth, elevation), V[word] - V["null"], atol=1e-5)


@pytest.mark.parametrize(("azimuth", "front", "side", "back"), [(30.0, 2 / 3, 1 / 3, 0), (-120.0, 0, 2 / 3, 1 / 3)])
def test_blended_words_of_direction_mix_the_two_nearest(azimuth: float, front: float, side: float, back: float) -> None:
    mixed = front * V["front"] + side * V["side"] + back * V["back"]
    np.testing.assert_allclose(asked("views: blend", azimuth), mixed - V["null"], atol=1e-5)


def test_a_model_that_is_not_told_the_camera_is_asked_its_blind_halves() -> None:
    np.testing.assert_allclose(asked("camera: false", 10.0), V["blind"] - V["blind_null"], atol=1e-5)


def bent(azimuth: float, strength: float, base: str = "null") -> np.ndarray:
    """eps_text after Perp-Neg, from the paper and threestudio's table."""
    r = abs(azimuth) / 90

    def falling(a: float, b: float, c: float, x: float) -> float:
        return a * math.exp(-b * x) + c

    if r < 1:
        away = [("front", -falling(4, 0.5, -2.426, 1 - r)), ("side", -falling(4, 0.5, -2.426, r))]
    else:
        away = [("side", -falling(1, 0.5, -0.606, 2 - r)), ("front", -falling(1, 0.5, 0.967, 2 - r))]
    own, total = V["text"] - V[base], V["text"].copy()
    for name, weight in away:
        other = V[name] - V[base]
        total += strength * weight * (other - (other @ own) / (own @ own) * own)
    return total


@pytest.mark.parametrize("azimuth", [20.0, -60.0, 130.0])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_perp_neg_bends_the_text_away_from_its_neighbours(azimuth: float, strength: float) -> None:
    got = asked(f"perp_neg: {strength}", azimuth)
    np.testing.assert_allclose(got, bent(azimuth, strength) - V["null"], atol=1e-4)
    assert np.abs(got - (V["text"] - V["null"])).max() > 0.05


def test_from_overhead_perp_neg_pushes_nowhere() -> None:
    np.testing.assert_allclose(asked("perp_neg: 1", 20.0, 80.0), V["text"] - V["null"], atol=1e-5)


def test_rescaling_pulls_the_spread_of_the_guided_picture_back() -> None:
    """sds at scale 6, told the back, whose eps differs by channel: the guided x0 is brought 0.7 of the way to the
    deviation of the told one."""
    share, scale = 0.7, 6.0
    one = "{guidance: flat, system: {kind: sds, weight: uniform, cfg: 6}, prompting: {rescale: 0.7, views: hard}}"
    stage = Toy(terms=one, stage=CAMERA.format(170.0, 0.0)).built()
    stepped(stage)
    z_t, t = (value[:2].double() for value in flat(stage).states[0])
    bar = flat(stage).table.alpha_bar[t.long()].double()[:, None, None, None]
    a, s = bar.sqrt(), (1 - bar).sqrt()
    text, null = (torch.tensor(SAYS[name]).double()[:, None, None] for name in ("back", "null"))
    guided, told = ((z_t - s * eps) / a for eps in (null + scale * (text - null), text))
    # Row by row: the rescale of the papers is per picture.
    factor = told.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    x0 = (share * factor + 1 - share) * guided
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(derive(3, "noise"))).double()
    g = (z_t - a * x0) / s - noise
    torch.testing.assert_close(gradient(stage), (2 * g / 2).sum((0, 2, 3)).float(), rtol=1e-4, atol=1e-3)
    assert (factor - 1).abs().min() > 0.01


# ---- the views of a given picture -----------------------------------------------------------------------------------
def following(terms: str, views: int = 4) -> BuiltStage:
    """A stage half of whose views are the picture's own camera, at azimuth 33."""
    stage = "given: {share: 0.5}"
    assembler = Toy(terms=terms, views=views, stage=stage).assembler()
    picture = Reference(torch.zeros(8, 8, 3), torch.ones(8, 8, 1), orbit([33.0], 12.0, 2.5, 50.0))
    assembler.prompts = tuple(replace(prompt, image=picture) for prompt in assembler.prompts)
    return assembler.stage(0)


def test_each_term_sees_its_own_views_of_the_step_with_their_own_frames() -> None:
    both = ", ".join(term(flat=f"shift: {i}", more=f"views: {which}") for i, which in enumerate(("given", "others")))
    stage = following(both)
    stepped(stage)
    ((cameras, _, background, _),) = tile(stage).diary
    assert cameras.azimuth_deg[:2].tolist() == pytest.approx([33.0, 33.0]) and not (cameras.azimuth_deg[2:] == 33).any()
    for index, rows in ((0, slice(0, 2)), (1, slice(2, 4))):
        ((_, at, frames),) = flat(stage, index).asked
        assert torch.equal(at.camera_to_world, cameras.camera_to_world[rows])
        assert torch.equal(frames.background, background[rows])
    # Each divides by its own number of views.
    torch.testing.assert_close(gradient(stage), torch.full((3,), 2 * 2 * float(V["text"][0] - V["null"][0]) * PIXELS))


def test_a_term_may_see_a_few_of_the_views_drawn_anew_in_each_step() -> None:
    stage = Toy(terms=term(more="sample: 2"), views=5).built()
    stepped(stage, 0, 6)
    chosen = set()
    for (cameras, _, _, _), (_, at, _) in zip(tile(stage).diary, flat(stage).asked, strict=True):
        rows = [int((cameras.camera_to_world == one).all((1, 2)).nonzero()) for one in at.camera_to_world]
        assert len(rows) == 2 and rows == sorted(rows)
        chosen.add(tuple(rows))
    assert len(chosen) > 2


def test_a_step_in_which_no_term_has_a_view_moves_nothing_and_is_healthy() -> None:
    stage = following(term(more="views: given"), views=1)  # one view: every other step is the picture's
    rows = stepped(stage, 0, 4)
    heard = [step for step in range(4) if tile(stage).diary[step][0].azimuth_deg[0] == pytest.approx(33.0)]
    assert 0 < len(heard) < 4 and [row["healthy"] for row in rows] == [1] * 4
    assert [row["loss"] != 0 for row in rows] == [step in heard for step in range(4)]
    assert int(stage.optimiser.state_dict()["count.color"]) == len(heard)
