# SPDX-License-Identifier: Apache-2.0
"""One real `train.step` on the toy, every number worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dreamlab.core.cameras import sample_orbit
from dreamlab.core.schedules import Progress
from dreamlab.core.streams import derive
from dreamlab.core.types import Condition
from systems.engine.regularisers import REGULARISERS
from tests.wiring.toy import SAYS, Toy, flat, gradient, stepped, term, tile
from tests.wiring.toy import toys as toys

pytestmark = pytest.mark.usefixtures("toys")
TEXT, NULL = SAYS["text"][0], SAYS["null"][0]
G = TEXT - NULL
PIXELS = 8 * 8


def stream(name: str) -> torch.Generator:
    """A stream of the toy's seed, from its very start."""
    return torch.Generator().manual_seed(derive(3, name))


def test_the_gradient_of_a_term_is_its_weight_times_the_rule_s() -> None:
    stage = Toy(terms=term(more="weight: 3")).built()
    (row,) = stepped(stage)
    torch.testing.assert_close(gradient(stage), torch.full((3,), 2 * 3 * G * PIXELS))
    assert row["grad_rms"] == pytest.approx(G) and row["healthy"] == 1 and row["alpha"] == pytest.approx(0.5)
    # 0.5 |g|^2 / B over B views of 3 channels, times the weight.
    assert row["loss"] == pytest.approx(3 * 0.5 * G * G * 3 * PIXELS, rel=1e-5)


def test_terms_add_up_each_with_its_weight_and_its_own_model() -> None:
    both = ", ".join([term(more="weight: 2"), term(flat="shift: 1", rule="text: 2, null: -1", more="weight: 5")])
    stage = Toy(terms=both).built()
    (row,) = stepped(stage)
    second = 2 * (TEXT + 1) - (NULL + 1)
    torch.testing.assert_close(gradient(stage), torch.full((3,), 2 * (2 * G + 5 * second) * PIXELS))
    assert row["grad_rms"] == pytest.approx(G + second)


@pytest.mark.parametrize(("step", "weight"), [(0, 1.0), (4, 3.0), (8, 5.0), (9, 5.0)])
def test_the_weight_of_a_term_follows_its_schedule(step: int, weight: float) -> None:
    stage = Toy(terms=term(more="weight: {from: 1, to: 5, end: 80%}")).built()
    stepped(stage, step, step + 1)
    torch.testing.assert_close(gradient(stage), torch.full((3,), 2 * weight * G * PIXELS))


@pytest.mark.parametrize("step", [0, 5])
def test_the_weight_of_a_regulariser_follows_its_schedule(step: int) -> None:
    """`paleness` is the sum of the colour's channels, `opacity` leaves the colour alone and moves the rows."""
    more = "regularisers: {paleness: {from: 2, to: 4}, opacity: {from: 8, to: 0}}"
    stage = Toy(terms=term(more="weight: 0"), stage=more).built()
    (row,) = stepped(stage, step, step + 1)
    paleness, opacity = 2 + 2 * step / 10, 8 * (1 - step / 10)
    torch.testing.assert_close(gradient(stage), torch.full((3,), paleness))
    slope = opacity * 0.5 / math.sqrt(0.26) / (2 * PIXELS)
    torch.testing.assert_close(gradient(stage, "rows"), slope * tile(stage).seen.float()[:, None])
    assert row["loss"] == pytest.approx(paleness * 0.75 + opacity * math.sqrt(0.26), rel=1e-5)
    assert row["grad_rms"] == pytest.approx(G), "a weight of nothing hides no gradient from the telemetry"


def test_every_regulariser_of_the_frames_goes_by_its_own_name() -> None:
    """One at a time: the loss is the function's own value, on a picture where the four differ."""
    expected = {"opacity": math.sqrt(0.26), "opaque": math.log(2), "smooth_rgb": 0.0, "smooth_depth": 0.0}
    for name in REGULARISERS:
        stage = Toy(terms=term(more="weight: 0"), stage=f"regularisers: {{{name}: 1}}").built()
        (row,) = stepped(stage)
        assert row["loss"] == pytest.approx(expected[name], abs=1e-6), name


@pytest.mark.parametrize("clip", [0.1, 0.25, 10.0])
def test_a_rule_s_clip_bounds_each_element_of_g(clip: float) -> None:
    stage = Toy(terms=term(rule=f"clip: {clip}")).built()
    (row,) = stepped(stage)
    torch.testing.assert_close(gradient(stage), torch.full((3,), 2 * min(G, clip) * PIXELS))
    assert row["grad_rms"] == pytest.approx(min(G, clip))


@pytest.mark.parametrize(("step", "clip"), [(0, 0.2), (5, 0.15), (9, 0.11)])
def test_a_rule_s_clip_follows_its_schedule(step: int, clip: float) -> None:
    stage = Toy(terms=term(rule="clip: {from: 0.2, to: 0.1}")).built()
    stepped(stage, step, step + 1)
    torch.testing.assert_close(gradient(stage), torch.full((3,), 2 * clip * PIXELS))


@pytest.mark.parametrize("limit", [0.05, 10.0])
def test_a_term_s_limit_on_pixels_bounds_what_reaches_the_picture(limit: float) -> None:
    """dL/drgb of a pixel is 2 G / B in each channel before the limit."""
    stage = Toy(terms=term(more=f"clip_pixel: {limit}")).built()
    stepped(stage)
    torch.testing.assert_close(gradient(stage), torch.full((3,), min(2 * G / 2, limit) * 2 * PIXELS))


@pytest.mark.parametrize(("step", "scale"), [(0, 1.0), (0, 0.5), (5, 1.0), (5, 0.25)])
def test_rates_follow_their_schedules_and_the_scale_of_roll_backs(step: int, scale: float) -> None:
    """Adam's first move is the rate itself, against the sign of the gradient."""
    scene = "lr_color: {from: 0.04, to: 0.02}, lr_rows: {from: 0.1, to: 0.001, curve: exp}"
    stage = Toy(scene=scene, stage="regularisers: {opacity: 1}").built()
    before = tile(stage).state_dict()
    stepped(stage, step, step + 1, scale)
    after = tile(stage).state_dict()
    rate, rows = (0.04 - 0.02 * step / 10) * scale, 0.1 * 0.01 ** (step / 10) * scale
    torch.testing.assert_close(before["color"] - after["color"], torch.full((3,), rate))
    torch.testing.assert_close((before["rows"] - after["rows"])[tile(stage).seen], torch.full((2, 1), rows))


def test_the_optimiser_is_adam_with_the_betas_of_the_field() -> None:
    """Kingma & Ba with (0.9, 0.99) and an eps that damps nothing: steps whose gradients are 1, 2, 3, .. times 1e-6."""
    more = "regularisers: {paleness: {from: 1.0e-6, to: 1.1e-5}}"
    stage = Toy(terms=term(more="weight: 0"), stage=more).built()
    first = second = 0.0
    value = 0.25
    for i in range(5):
        stepped(stage, i, i + 1)
        grad = 1e-6 * (1 + i)
        first, second = 0.9 * first + 0.1 * grad, 0.99 * second + 0.01 * grad**2
        value -= 0.01 * (first / (1 - 0.9 ** (i + 1))) / math.sqrt(second / (1 - 0.99 ** (i + 1)))
        torch.testing.assert_close(tile(stage).state_dict()["color"], torch.full((3,), value), rtol=2e-5, atol=0)


def test_rows_that_no_view_saw_stay_and_the_others_move() -> None:
    stage = Toy(stage="regularisers: {opacity: 1}").built()
    before = tile(stage).state_dict()["rows"]
    stepped(stage)
    moved = (tile(stage).state_dict()["rows"] != before)[:, 0]
    assert moved.tolist() == [True, False, True, False]


def test_moments_follow_the_rows_that_a_scene_moves() -> None:
    """After the first step the rows are turned round: so are their moments."""
    stage = Toy(scene="regrow: 1", stage="regularisers: {opacity: 1}").built()
    stepped(stage)
    assert (stage.optimiser.state_dict()["first.rows"] != 0)[:, 0].tolist() == [False, True, False, True]


def test_moments_of_other_particles_stay_when_one_moves_its_rows() -> None:
    stage = Toy(scene="regrow: 7", stage="particles: 2\n    regularisers: {opacity: {from: 1, to: 0.1}}").built()
    stepped(stage, 0, 6)
    before = {name: value.clone() for name, value in stage.optimiser.state_dict().items() if name.startswith("first")}
    rows = [name for name in before if name.endswith("rows")]
    assert len(rows) == 2 and all(before[name].any() for name in rows), "both have learnt"
    stepped(stage, 6, 7)
    after = stage.optimiser.state_dict()
    moved = [name for name in rows if not torch.equal(after[name], before[name])]
    assert len(moved) == 1 and (after[moved[0]] != 0)[:, 0].tolist() == [False, True, False, True]


@pytest.mark.parametrize(("size", "views"), [(8, 2), (20, 3)])
def test_a_stage_renders_its_views_at_its_size_once(size: int, views: int) -> None:
    stage = Toy(size=size, views=views).built()
    stepped(stage, 4, 5)
    ((cameras, asked, background, training),) = tile(stage).diary
    assert asked == size and len(cameras) == views and background.shape == (views, 3)
    assert training is not None and training.progress == Progress(4, 10)
    assert training.stream is stage.streams.render
    assert [z_t.shape for z_t, _ in flat(stage).states] == [(2 * views, 3, size, size)], "text and null in one call"
    (said,) = flat(stage).asked
    assert said[0].text == "a red ball" and torch.equal(said[1].camera_to_world, cameras.camera_to_world)


def test_each_draw_comes_from_the_stream_of_its_name() -> None:
    """Cameras, background, time and noise, drawn again here from the seed."""
    stage = Toy().built()
    stepped(stage)
    ((cameras, _, background, _),) = tile(stage).diary
    expected = sample_orbit(stage.spec.cameras, 2, stream("camera"))
    assert torch.equal(cameras.camera_to_world, expected.camera_to_world)
    assert torch.equal(background, torch.rand(2, 3, generator=stream("background")))
    ((z_t, t),) = flat(stage).states
    drawn = torch.randint(20, 981, (2,), generator=stream("timestep"))
    assert t.tolist() == drawn.tolist() * 2
    a, s = flat(stage).table.signal_noise(drawn, z_t[:2])
    noise = torch.randn(2, 3, 8, 8, generator=stream("noise"))
    torch.testing.assert_close(z_t, (a * (2 * 0.25 - 1) + s * noise).repeat(2, 1, 1, 1))


@pytest.mark.parametrize(("kind", "value"), [("white", 1.0), ("black", 0.0), ("gray", 0.5)])
def test_plain_backgrounds_are_what_they_are_called_and_draw_like_the_others(kind: str, value: float) -> None:
    stage = Toy(stage=f"background: {kind}").built()
    stepped(stage, 0, 2)
    assert all((background == value).all() for _, _, background, _ in tile(stage).diary)
    other = Toy().built()
    stepped(other, 0, 2)
    assert torch.equal(stage.streams.background.get_state(), other.streams.background.get_state())


@pytest.mark.parametrize(
    ("cameras", "told", "group"),
    [("{clip: 3}", "together: 3, clip: true", 3), ("{ring: 2}", "together: 2", 2), ("{}", "", 1)],
)
def test_views_that_belong_together_stand_before_one_colour(cameras: str, told: str, group: int) -> None:
    stage = Toy(views=6, stage=f"cameras: {cameras}", terms=term(flat=told)).built()
    stepped(stage)
    ((_, _, background, _),) = tile(stage).diary
    for start in range(0, 6, group):
        assert (background[start : start + group] == background[start]).all()
    firsts = background[::group]
    assert len(firsts.unique(dim=0)) == 6 // group, "every group has a colour of its own"


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_nan_in_any_term_switches_the_step_off(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Toy(terms=f"{term()}, {term(flat='shift: 1')}").built()
    sick = flat(stage, 0 if which == "first" else 1)
    sound = sick.predict

    def predict(z_t: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        eps = sound(z_t, t, condition)
        eps[-1, 1, 2, 3] = math.nan  # one number of one picture
        return eps

    monkeypatch.setattr(sick, "predict", predict)
    before = tile(stage).state_dict()["color"]
    (row,) = stepped(stage)
    assert row["healthy"] == 0 and torch.equal(tile(stage).state_dict()["color"], before)
    assert stage.optimiser.state_dict()["count.color"] == 0


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_an_infinite_loss_or_a_nan_on_a_parameter_switches_the_step_off(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both past the terms: the regulariser's value alone, or its slope alone."""
    stage = Toy(stage="regularisers: {paleness: 1}").built()
    scene = tile(stage)

    def penalty(name: str, frames: object) -> torch.Tensor:
        if what == "loss":
            return scene.colour.sum() * 0 + math.inf  # its slope is 0
        return (scene.colour - scene.colour.detach()).sum().sqrt()  # 0 with a slope of inf

    monkeypatch.setattr(scene, "penalty", penalty)
    before = scene.state_dict()["color"]
    rows = stepped(stage)
    assert rows[0]["healthy"] == 0 and torch.equal(scene.state_dict()["color"], before)


def test_the_scene_adapts_to_the_frames_of_the_step_after_the_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told whether the step was healthy, without which it must change nothing."""
    stage, seen = Toy().built(), []
    scene = tile(stage)
    adapt = scene.adapt
    monkeypatch.setattr(scene, "adapt", lambda *told: seen.append(scene.state_dict()["color"]) or adapt(*told))
    stepped(stage, 7, 8)
    ((progress, frames, healthy),) = scene.adapted
    assert progress == Progress(7, 10) and torch.equal(frames.background, scene.diary[0][2])
    torch.testing.assert_close(seen[0], torch.full((3,), 0.25 - 0.01))
    assert healthy is not None and bool(healthy)
    monkeypatch.setattr(flat(stage), "predict", lambda z_t, t, condition: torch.full_like(z_t, math.nan))
    stepped(stage, 8, 9)
    assert not bool(scene.adapted[1][2])
