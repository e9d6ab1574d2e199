# SPDX-License-Identifier: Apache-2.0
"""MVDream, the bridge, C-SDS, style, grids, clips, regions and bootstrapping: against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import orbit, turntable
from dreamlab.core.noise import rescaled
from dreamlab.core.pixels import tiled, untiled
from dreamlab.core.schedules import Progress, constant
from systems.bootstrapped import Bootstrapped
from systems.bridge import Bridge
from systems.csds import CSDS
from systems.csm import CSM
from systems.grid import Grid
from systems.mvdream import MVDream
from systems.sds import SDS
from systems.semantic import Region, Semantic, about, region_masks
from systems.style import Style
from systems.video import Video, amplified
from tests.systems.test_newest import sphere
from tests.systems.test_residual import Linear, look, per
from tests.systems.test_rules import BAR, Draws, eps, guided, made, move, noisy
from tests.systems.test_vsd import adapted


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_mvdream(share: float) -> None:
    got, seen = made(MVDream, 4, Progress(0, 10_000), rescale=share, group=2, t_min=constant(0.3), t_max=constant(0.9))
    draws = Draws(4)
    t, n = draws.times(300, 900, 1), draws.noise()
    z = noisy(draws.z, n, t)
    a, s = math.sqrt(BAR[t]), math.sqrt(1 - BAR[t])
    x0, told = ((z - s * e) / a for e in (guided(z, t, 50.0, "negative"), eps(z, t, "text")))
    rows = []
    for group in (slice(0, 2), slice(2, 3)):
        ratio = told[group].std() / x0[group].std()
        rows.append(share * ratio * x0[group] + (1 - share) * x0[group])
    torch.testing.assert_close(got, draws.z - torch.cat(rows), rtol=1e-6, atol=1e-6)
    assert (seen.calls, seen.rows) == (1, 6)


def test_sds_is_the_pull_towards_the_clean_picture() -> None:
    """losses.md 1.7: eps - n = (a / sigma)(z - x0), so SDS is an L2 loss to sg(x0) with weight w a / sigma."""
    still = {"t_min": constant(0.4), "t_max": constant(0.4), "cfg": constant(20.0)}
    pull, _ = made(MVDream, 4, rescale=0.0, against="null", **still)
    sds, _ = made(SDS, 4, weight="ism", **still)
    torch.testing.assert_close(pull, sds, rtol=1e-6, atol=1e-7)  # the weight sigma / a makes them one


def test_rescale_gives_each_group_the_spread_of_the_text() -> None:
    x, like = 5 * torch.randn(8, 3, 4, 4, dtype=torch.float64), torch.randn(8, 3, 4, 4, dtype=torch.float64)
    full = rescaled(x, like, 1.0, 4)
    for group in (slice(0, 4), slice(4, 8)):
        assert full[group].std().item() == pytest.approx(like[group].std().item())
    torch.testing.assert_close(rescaled(x, like, 0.0, 4), x)


@pytest.mark.parametrize("step", [0, 79, 80])
def test_the_bridge_changes_its_two_ends(step: int) -> None:
    got, seen = made(Bridge, 4, Progress(step, 100), scale=3.0)
    draws = Draws(4)
    t, n = draws.times(20, 980), draws.noise()
    z = noisy(draws.z, n, t)
    first = per(1 - BAR[t], z) * (guided(z, t, 100.0) - n)
    expected = first if step < 80 else 3.0 * (eps(z, t, "text") - eps(z, t, "negative"))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert (seen.calls, seen.rows) == (1, 6)


def test_csds() -> None:
    got, seen = made(CSDS, 4)
    draws = Draws(4)
    t = draws.times(20, 980)
    z = noisy(draws.z, draws.noise(), t)
    e = {name: eps(z, t, name) for name in ("control", "control_null", "category")}
    expected = e["control_null"] + 7.5 * (e["control"] - e["control_null"]) - e["category"]
    torch.testing.assert_close(got, per(1 - BAR[t], z) * expected)
    assert seen.rows == 9


def test_style() -> None:
    got, seen = made(Style, 9, Progress(0, 3000), style=constant(2.0))
    draws = Draws(9)
    t = int(draws.times(20, 500, 1))
    s = max(t - 100, 0)
    z_s, calls = draws.inverted(s)
    e_s = eps(z_s, s, "null")
    z = move(z_s, e_s, s, t)
    e = {name: eps(z, t, name) for name in ("null", "text", "content", "style")}
    total = e["null"] - e_s + 7.5 * (e["text"] - e["content"]) + 2.0 * (e["style"] - e["null"])
    torch.testing.assert_close(got, 0.1 * math.sqrt((1 - BAR[t]) / BAR[t]) * total, rtol=1e-6, atol=1e-7)
    assert seen.rows == 3 * (calls + 1 + 4)


def test_a_visual_prompt_takes_the_texts_place() -> None:
    got, _ = made(CSM, 9, Progress(0, 5000), visual=True)
    draws = Draws(9)
    t = int(draws.times(20, 980, 1))
    z_t, _calls = draws.inverted(t)
    expected = 7.5 * (eps(z_t, t, "visual") - eps(z_t, t, "null"))
    torch.testing.assert_close(got, math.sqrt((1 - BAR[t]) / BAR[t]) * expected, rtol=1e-6, atol=1e-7)
    assert CSM.card(CSM.Settings(visual=True)).conditions == {"text", "null", "visual"}
    assert CSM.card(CSM.Settings()).conditions == {"text", "null"}


def test_a_grid_is_scored_as_one_picture_and_cut_back() -> None:
    """The four views' means stand in the corners of one picture; g is the transpose of that map."""
    seen = look(batch=4, seed=4)
    got = Grid(Grid.Settings(t_min=constant(0.5), t_max=constant(0.5))).gradient(seen)
    noise = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    small = seen.z.reshape(4, 4, 3, 2, 3, 2).mean((3, 5))
    picture = torch.cat([torch.cat([small[0], small[1]], 2), torch.cat([small[2], small[3]], 2)], 1)[None]
    z = math.sqrt(BAR[500]) * picture + math.sqrt(1 - BAR[500]) * noise
    null, text = (0.3 * z + 0.5 + bias for bias in (0.1, 0.25))  # the biases of the first view
    g = (1 - BAR[500]) * (null + 50 * (text - null) - noise)
    for k, (row, column) in enumerate(((0, 0), (0, 3), (3, 0), (3, 3))):
        cell = g[0, :, row : row + 3, column : column + 3]
        torch.testing.assert_close(got[k], cell.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4)
    assert (seen.calls, seen.rows) == (1, 2)
    views = torch.randn(8, 2, 3, 5)
    torch.testing.assert_close(untiled(tiled(views)), views)
    with pytest.raises(ValueError, match="multiple of 4"):
        Grid(Grid.Settings()).gradient(look(batch=3))


@pytest.mark.parametrize("form", ["sds", "csd"])
def test_video(form: str) -> None:
    seen = look(batch=6, seed=4)
    got = Video(Video.Settings(form=form, frames=3, cfg=constant(5.0), amplify=constant(2.0))).gradient(seen)
    time_stream, noise_stream = torch.Generator().manual_seed(6), torch.Generator().manual_seed(5)
    drawn = torch.randint(20, 981, (6,), generator=time_stream)
    n = torch.randn(seen.z.shape, generator=noise_stream, dtype=torch.float64)
    b = torch.arange(6).double()
    for clip in (slice(0, 3), slice(3, 6)):
        t = drawn[clip][0]  # one time for the clip
        z = math.sqrt(BAR[t]) * seen.z[clip] + math.sqrt(1 - BAR[t]) * n[clip]
        text, null = (0.3 * z + float(t) / 1000 + per(bias, z) for bias in (b[clip] + 0.5, -b[clip]))
        d = text - null
        d = d + 2.0 * (d - d.mean(0))
        expected = 5.0 * d + (null - n[clip] if form == "sds" else 0)
        torch.testing.assert_close(got[clip], (1 - BAR[t]) * expected)


def test_the_amplifier_adds_motion_and_nothing_else() -> None:
    d = torch.randn(8, 2, 3, 3, dtype=torch.float64)
    more = amplified(d, 4, 3.0)
    torch.testing.assert_close(more.unflatten(0, (2, 4)).mean(1), d.unflatten(0, (2, 4)).mean(1))  # zero mean
    still = d[:1].expand(4, -1, -1, -1)
    torch.testing.assert_close(amplified(still, 4, 3.0), still)


class Named(Linear):
    """A guidance whose text is told apart by its first letter."""

    def condition(self, prompt, cameras, frames):  # type: ignore[no-untyped-def]
        found = dict(super().condition(prompt, cameras, frames))
        shift = {"r": 10.0, "b": -10.0}[prompt.text[0]]
        found["text"] = replace(found["text"], rows={"bias": found["text"].rows["bias"] + shift})
        return found


def test_regions_hear_their_own_prompts() -> None:
    """A sphere cut at x = 0: seen from the front its left half is `blue`, its right half `red`, outside is nothing."""
    regions = (Region("red", x=(0.0, 5.0)), Region("blue", x=(-5.0, 0.0)))
    seen = look(batch=2, seed=4)
    seen.frames, seen.cameras = sphere([0.0, 180.0], size=24, radius=0.5)
    seen.z = torch.randn(2, 4, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen.guidance = Named()
    masks = region_masks(seen, regions)
    assert masks.sum(1).amax() == 1 and masks[0, 0, 12, 14] == 1 and masks[0, 1, 12, 9] == 1
    assert masks[1, 0, 12, 9] == 1 and masks[1, 1, 12, 14] == 1  # from behind they change sides
    alpha = seen.frames.alpha[0, ..., 0] > 0.5
    assert (masks[0].sum(0)[alpha] == 1).all() and masks[0, :, 0, 0].sum() == 0
    grown = (masks[0].sum(0) > 0) & ~alpha
    assert 0 < grown.sum() < 24 * 8  # widened by two pixels into the background
    system = Semantic(Semantic.Settings(regions=regions, cfg=constant(3.0), t_min=constant(0.5), t_max=constant(0.5)))
    got = system.gradient(seen)
    n = torch.randn(2, 4, 24, 24, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z = math.sqrt(BAR[500]) * seen.z + math.sqrt(1 - BAR[500]) * n
    b = torch.arange(2).double()
    total = torch.zeros_like(z)
    for k, shift in enumerate((10.0, -10.0)):
        text, null = (0.3 * z + 0.5 + per(bias, z) for bias in (b + 0.5 + shift, -b))
        total = total + masks[:, k, None] * (null + 3.0 * (text - null) - n)
    torch.testing.assert_close(got, (1 - BAR[500]) * total)
    assert "regions" in Semantic.card(Semantic.Settings()).complaint


def test_a_region_sees_the_camera_about_its_own_centre() -> None:
    cameras = orbit([0.0], 0.0, 3.0)
    moved = about(cameras, (3.0, 0.0, 0.0))  # an object to the camera's right sees it at its left front
    assert moved.azimuth_deg.item() == pytest.approx(-45.0, abs=1e-4)
    assert moved.distance.item() == pytest.approx(3 * math.sqrt(2), rel=1e-5)
    assert about(cameras, (0.0, 3.0, 0.0)).elevation_deg.item() == pytest.approx(-45.0, abs=1e-4)


@pytest.mark.parametrize("base", ["none", "prior"])
def test_bootstrapping_dreams_first_then_distils(base: str) -> None:
    """Ten steps of a cycle: two only teach the prior (g = 0), the rest follow cfg(prior) - eps_phi, all counted."""
    settings = Bootstrapped.Settings(cycle=10, dream=0.2, polish=3, width=8, renew=1, cache=2, base=base)
    system = Bootstrapped(settings)
    for step in range(2):
        seen = look(seed=step)
        seen.progress = Progress(step, 10)
        assert system.gradient(seen).abs().max() == 0 and seen.trained == 3
        assert sum(seen.guidance.sizes) == 3 * (2 * 3 + 1)  # type: ignore[attr-defined]
    assert len(system.polished) == 2
    learnt = system.nets["prior"].flat.clone()
    seen = look(seed=7)
    seen.progress = Progress(2, 10)
    got = system.gradient(seen)
    assert torch.equal(system.nets["prior"].flat, learnt) and int(system.nets["render"].count) == 1
    draws = Draws(7)
    t = draws.times(50, 499)  # t_max has begun to fall
    z = noisy(draws.z, draws.noise(), t)
    added = system.forms["prior"].apply(system.nets["prior"].params(), z, t, seen.poses())
    # eps_phi had not learnt yet: it is the text's own prediction, or the score of pure noise, sigma z.
    mine = eps(z, t, "text") if base == "prior" else per((1 - BAR[t]).sqrt(), z) * z
    expected = eps(z, t, "null") + 2.0 * (eps(z, t, "text") + added - eps(z, t, "null")) - mine
    assert sum(seen.guidance.sizes) == 3 * (3 if base == "prior" else 2)  # type: ignore[attr-defined]
    torch.testing.assert_close(got, per(1 - BAR[t], z) * expected.detach(), rtol=1e-5, atol=1e-6)
    again = Bootstrapped(settings)
    again.load_state_dict({name: value.clone() for name, value in system.state_dict().items()})
    torch.testing.assert_close(following(again), following(system), rtol=0, atol=0)


@pytest.mark.parametrize("predicts", ["v", "eps"])
def test_bootstrapped_networks_learn_v_or_eps(predicts: str) -> None:
    """The first step of phi: small networks begin at zero, s z_t in v and 0 in eps; the loss is the squared error in
    what they say, so Adam's first moment of the last layer's bias is a tenth of its slope, known by hand."""
    system = Bootstrapped(Bootstrapped.Settings(dream=0.0, width=8, predicts=predicts))
    seen = look(seed=7)
    got = system.gradient(seen)
    draws = Draws(7)
    t = draws.times(50, 500)
    z = noisy(draws.z, draws.noise(), t)
    begun = per((1 - BAR[t]).sqrt(), z) * z if predicts == "v" else torch.zeros_like(z)
    expected = per(1 - BAR[t], z) * (guided(z, t, 2.0) - begun)
    torch.testing.assert_close(got, expected.detach(), rtol=1e-5, atol=1e-6)
    t, n = draws.times(0, 999), draws.noise()
    z = noisy(draws.z, n, t)
    a, s = per(BAR[t].sqrt(), z), per((1 - BAR[t]).sqrt(), z)
    # In v: eps = s z + a v, its error over a; d/d(bias) of mean((error / a)^2) is 2 mean(error / a) per channel / C.
    error = (s * z - n) / a.clamp(min=0.05) if predicts == "v" else -n
    slope = error * (a / a.clamp(min=0.05) if predicts == "v" else 1.0)
    own = system.nets["render"]
    bias = own.params(own.first)["out.bias"]
    torch.testing.assert_close(bias, 0.1 * 2 * slope.mean((0, 2, 3)) / 4, rtol=1e-4, atol=1e-7)


def test_a_whole_network_may_be_bootstrappeds_phi() -> None:
    """eps_phi is then the guidance's own: it begins as the text's plain prediction and learns the renders, downhill."""
    seen = adapted()
    settings = Bootstrapped.Settings(dream=0.0, width=8, net="adapter", lr=0.01, predicts="eps")
    system = Bootstrapped(settings)
    got = system.gradient(seen)
    assert seen.guidance.rank == 0 and list(system.forms) == ["prior"]  # type: ignore[attr-defined]
    draws = Draws(4)
    t = draws.times(50, 500)
    z = noisy(draws.z, draws.noise(), t)
    x = per(turntable(3).camera_to_world[:, 0, 0].double(), z)
    expected = guided(z, t, 2.0) - (eps(z, t, "text") + 0.1 * x)
    torch.testing.assert_close(got, per(1 - BAR[t], z) * expected, rtol=1e-5, atol=1e-6)
    t, n = draws.times(0, 999), draws.noise()
    z = noisy(draws.z, n, t)
    error = eps(z, t, "text") + 0.1 * x - n
    slopes = torch.stack([(error * z).sum(), (error * x).sum()])
    stepped = torch.tensor([0.0, 0.1]).double() - 0.01 * slopes.sign()
    torch.testing.assert_close(system.nets["render"].flat, stepped, atol=1e-6, rtol=0)
    assert (seen.trained, seen.rows) == (3, 3 * (2 + 2 + 1))
    assert Bootstrapped.card(settings).adapter and not Bootstrapped.card(Bootstrapped.Settings()).adapter


def following(system: Bootstrapped) -> Tensor:
    seen = look(seed=8)
    seen.progress = Progress(3, 10)
    return system.gradient(seen)
