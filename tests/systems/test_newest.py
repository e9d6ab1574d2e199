# SPDX-License-Identifier: Apache-2.0
"""SDI, DSD, RFDS, JSD, CFD and the order loss: against their formulas, and what they claim against an exact score."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Frames
from systems.cfd import CFD
from systems.dsd import DSD
from systems.engine.surface_noise import bound_noise, texel_of
from systems.jsd import JSD
from systems.order import Order, disorder
from systems.rfds import RFDS
from systems.sdi import SDI
from systems.sds import SDS
from tests.systems.test_behaviour import particles, scene
from tests.systems.test_residual import look, per
from tests.systems.test_rules import BAR, Draws, eps, guided, made, move, noisy


def test_sdi() -> None:
    """Inversion guided against the text, no noise of its own here; kappa and the weight of z - x0."""
    got, seen = made(SDI, 4, Progress(4, 10), eta=0.0)
    draws = Draws(4)
    t = int((0.98 - 0.4 * 0.78) * 1000 + 1e-6) + int(draws.times(0, 99, 1))
    z, k = draws.z, 0
    while k < t:
        after = min(k + 100, t)
        z, k = move(z, guided(z, k, -6.5), k, after), after
    a, s = math.sqrt(BAR[t]), math.sqrt(1 - BAR[t])
    x0 = (z - s * guided(z, t, 8.5)) / a
    torch.testing.assert_close(got, draws.z - x0, rtol=1e-6, atol=1e-6)  # their loss: 0.5 |z - x0|^2
    assert seen.rows == 3 * 2 * (math.ceil(t / 100) + 1)


def test_sdi_adds_ddims_own_noise_on_the_way_up() -> None:
    """Over one inversion the variance added is eta^2 times the sum of sigma^2 of eq. 16, carried to the end."""
    ends = []
    for seed in range(60):
        seen = look(seed=4)
        seen.noise_stream = torch.Generator().manual_seed(seed)
        ends.append(SDI(SDI.Settings(eta=0.5, cfg_inversion=1.0)).invert(seen, 100, 100))
    sigma2 = float((1 - BAR[0]) / (1 - BAR[100]) * (1 - BAR[100] / BAR[0]))
    assert torch.stack(ends).var(0).mean().item() == pytest.approx(0.25 * sigma2, rel=0.1)


def test_dsd() -> None:
    system = DSD(DSD.Settings())
    seen = look(seed=4)
    seen.progress = Progress(3, 10)
    got = system.gradient(seen)
    draws = Draws(4)
    start = draws.noise()[:1]
    t = int((0.98 - 0.66 * math.sqrt(0.3)) * 1000 + 1e-6)
    later = t + int(0.1 * (t - 20) * float(torch.rand((), generator=draws.time_stream)))
    x, k, calls = start.expand(3, -1, -1, -1), 999, 0
    while k > later:
        after = max(k - 100, later)
        x, k, calls = move(x, guided(x, k, 8.5), k, after), after, calls + 1
    n = guided(x, later, 8.5)
    expected = guided(noisy(draws.z, n, t), t, 8.5) - guided(noisy(draws.z, n, later), later, 2.0)
    torch.testing.assert_close(got, (1 - BAR[t]) * expected, rtol=1e-6, atol=1e-6)
    assert seen.rows == 6 * (calls + 3)
    again = DSD(DSD.Settings())
    again.load_state_dict({name: value.clone() for name, value in system.state_dict().items()})
    torch.testing.assert_close(again.gradient(look(seed=7)), system.gradient(look(seed=7)), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("rev", [False, True])
def test_rfds(rev: bool, scale: float) -> None:
    """In rectified flow's own variables; the model's v follows from its eps at the equivalent state."""
    got, seen = made(RFDS, 4, rev=rev, cfg=constant(scale))
    draws = Draws(4)
    flow = (1 - BAR).sqrt() / (BAR.sqrt() + (1 - BAR).sqrt())
    wanted = 0.3 + 0.68 * torch.rand(3, generator=draws.time_stream).double()
    t = (flow[:, None] - wanted).abs().argmin(0)
    s, n = per(flow[t], draws.z), draws.noise()
    grow = per(BAR[t].sqrt() + (1 - BAR[t]).sqrt(), draws.z)

    def v(z_s: Tensor, scale: float) -> Tensor:
        return (guided(z_s * grow, t, scale) - z_s) / (1 - s)

    u = torch.ones(3)
    if rev:
        n = n + (1 - s) * (v((1 - s) * draws.z + s * n, 1.0) + draws.z - n)
    else:
        u = torch.randn(3, generator=draws.time_stream).sigmoid()
    expected = per(u, n) * (v((1 - s) * draws.z + s * n, scale) - (n - draws.z))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert seen.rows == 3 * ((1 if scale == 1.0 else 2) + rev)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_rfds_is_sds_with_another_weight(scale: float) -> None:
    """v - (n - z) = (eps - n) / (1 - s): at one time and with one noise the two rules differ by u / (1 - s)."""
    s = 0.4
    flow = (1 - BAR).sqrt() / (BAR.sqrt() + (1 - BAR).sqrt())
    t = int((flow - s).abs().argmin())
    got, _ = made(RFDS, 4, cfg=constant(scale), s_min=constant(s), s_max=constant(s))
    still = {"t_min": constant(t / 1000), "t_max": constant(t / 1000)}
    sds, _ = made(SDS, 4, cfg=constant(scale), weight="uniform", **still)
    draws = Draws(4)
    torch.rand(3, generator=draws.time_stream)  # of the times, all alike
    u = torch.randn(3, generator=draws.time_stream).sigmoid()
    torch.testing.assert_close(got, per(u.double() / (1 - flow[t]), sds) * sds, rtol=1e-5, atol=1e-5)


def test_rev_takes_the_models_own_noise() -> None:
    """n' = n + (1 - s)(v + z - n) is eps_text at z_s, so the rule is (cfg(eps)(z'_t) - n') / (1 - s) at the state
    that n' makes of the render."""
    s = 0.7
    flow = (1 - BAR).sqrt() / (BAR.sqrt() + (1 - BAR).sqrt())
    t = int((flow - s).abs().argmin())
    got, _ = made(RFDS, 4, cfg=constant(5.0), rev=True, s_min=constant(s), s_max=constant(s))
    draws = Draws(4)
    own = eps(noisy(draws.z, draws.noise(), t), t, "text")
    expected = (guided(noisy(draws.z, own, t), t, 5.0) - own) / (1 - flow[t])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_jsd() -> None:
    got, seen = made(JSD, 4, Progress(7, 10))
    draws = Draws(4)
    t, n = draws.times(20, 980), draws.noise()
    z = noisy(draws.z, n, t)
    blind, null = eps(z, t, "blind"), eps(z, t, "blind_null")
    x0 = {
        name: (z - per((1 - BAR[t]).sqrt(), z) * eps(z, t, name)) / per(BAR[t].sqrt(), z)
        for name in ("blind_null", "text")
    }
    edm = per(((1 - BAR[t]) / BAR[t]).sqrt(), z)
    pull = 5.0 * edm * (0.5 / 3) * (x0["blind_null"] - x0["text"])  # the opacity of `look` is 0.5
    torch.testing.assert_close(got, per(1 - BAR[t], z) * (null + 31 * (blind - null) - n + pull), rtol=1e-6, atol=1e-6)
    assert seen.rows == 9
    early, _ = made(JSD, 4, Progress(0, 10))
    torch.testing.assert_close(early, per(1 - BAR[t], z) * (null + 31 * (blind - null) - n), rtol=1e-6, atol=1e-6)


def sphere(azimuths: list[float], size: int = 64, radius: float = 0.8) -> tuple[Frames, Cameras]:
    """The depth of a sphere around the origin, in closed form."""
    cameras = orbit(azimuths, 0.0).to(dtype=torch.float64)
    origin, ray = cameras.rays(size, size)
    along = -(ray * origin[:, None, None]).sum(-1)
    inside = along.square() - (origin.square().sum(-1)[:, None, None] - radius**2)
    there = inside > 0
    reach = along - inside.clamp(min=0).sqrt()
    depth = reach * -(ray * cameras.camera_to_world[:, None, None, :3, 2]).sum(-1)
    alpha = there.double()[..., None]
    return Frames(
        alpha.expand(-1, -1, -1, 3), alpha, (depth * there)[..., None], torch.zeros(len(azimuths), 3)
    ), cameras


def sphere_noise(azimuths: list[float], seed: int = 0) -> tuple[Tensor, Tensor, Cameras]:
    frames, cameras = sphere(azimuths)
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(6 * 4 * 64**2, 8, generator=generator, dtype=torch.float64)
    free = torch.randn(len(azimuths), 8, 64, 64, generator=generator, dtype=torch.float64)
    return bound_noise(field, free, frames, cameras, 64, 4, 1.8, 3), frames.alpha[..., 0] > 0.5, cameras


def test_bound_noise_is_white_and_sticks_to_the_surface() -> None:
    """CFD's claim: standard normal and independent within a view, one and the same on a surface point for all views."""
    noise, there, cameras = sphere_noise([0.0, 0.0, 15.0, 180.0])
    torch.testing.assert_close(noise[0].masked_select(there[0]), noise[1].masked_select(there[0]), rtol=0, atol=0)
    seen = noise[0][:, there[0]]
    assert seen.numel() > 5000 and abs(seen.mean()) < 0.05 and abs(seen.var() - 1) < 0.05
    both = there[0, :, 1:] & there[0, :, :-1]
    neighbours = (noise[0, :, :, 1:] * noise[0, :, :, :-1])[:, both].mean()
    assert abs(neighbours) < 0.05
    assert (there[0] & ~there[3]).sum() == 0 and abs((noise[0] * noise[3])[:, there[0]].mean()) < 0.05  # front, back
    # Where the pixel (i, j) of the view at 0 degrees is seen from 15 degrees: rotate its point and project it.
    i, j = torch.meshgrid(torch.arange(24, 40), torch.arange(24, 40), indexing="ij")
    frames, _ = sphere([0.0])
    origin, ray = cameras.rays(64, 64)
    forward = -cameras.camera_to_world[0, :3, 2]
    point = origin[0] + ray[0, i, j] * (frames.depth[0, i, j, 0] / (ray[0, i, j] @ forward))[..., None]
    view = cameras.world_to_camera()[2]
    local = point @ view[:3, :3].T + view[:3, 3]
    focal = cameras.focal_px(64)[2]
    x, y = (focal * local[..., 0] / -local[..., 2] + 32).long(), (32 - focal * local[..., 1] / -local[..., 2]).long()
    same = (noise[0, :, i, j] * noise[2, :, y, x]).mean()
    elsewhere = (noise[0, :, i, j] * noise[2, :, y, x - 3]).mean()
    assert same > 0.3 and abs(elsewhere) < 0.1, (same, elsewhere)


def test_texels_are_the_faces_of_a_cube() -> None:
    points = torch.eye(3).repeat_interleave(2, 0) * torch.tensor([1.0, -1.0] * 3)[:, None]
    assert (texel_of(points, 8, 4, 2.0) // (4 * 64)).tolist() == [0, 1, 2, 3, 4, 5]
    near, far = texel_of(torch.tensor([[0.3, 0.0, 0.0], [1.9, 0.0, 0.0]]), 8, 4, 2.0)
    assert (far - near) == 3 * 64  # the same place, three shells out


def texels_by_hand(frames: Frames, cameras: Cameras, size: int, texels: int, layers: int, reach: float) -> Tensor:
    """[B, size, size] which texel each pixel's surface point falls on, -1 where there is none: pixel by pixel."""
    found = torch.full((len(cameras), size, size), -1)
    for view in range(len(cameras)):
        pose, focal = cameras.camera_to_world[view], float(cameras.focal_px(size)[view])
        for row in range(size):
            for column in range(size):
                depth = float(frames.depth[view, row, column, 0])
                if depth == 0:
                    continue
                ray = torch.tensor([(column + 0.5 - size / 2) / focal, (size / 2 - row - 0.5) / focal, -1.0]).double()
                x = pose[:3, 3] + pose[:3, :3] @ (depth * ray)
                axis = int(x.abs().argmax())
                across = [float(x[(axis + k) % 3] / x[axis].abs()) for k in (1, 2)]
                place = [min(int((value + 1) / 2 * texels), texels - 1) for value in across]
                shell = min(int(x.norm() / reach * layers), layers - 1)
                face = 2 * axis + int(x[axis] < 0)
                found[view, row, column] = ((face * layers + shell) * texels + place[0]) * texels + place[1]
    return found


def test_cfd() -> None:
    """w (cfg(eps) - n) with n by hand: a texel's noise goes to the first pixel of a view that sees it, the other pixels
    and those that see nothing have noise of their own."""
    size, texels, layers = 12, 6, 2
    shape = {"texels": texels, "layers": layers, "reach": 1.8, "sub": 1}
    system = CFD(CFD.Settings(**shape))
    seen = look(batch=2, seed=4)
    seen.frames, seen.cameras = sphere([0.0, 30.0], size=size)
    seen.z = torch.randn(2, 4, size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    seen.progress = Progress(5, 10)
    got = system.gradient(seen)
    stream = torch.Generator().manual_seed(5)
    field = torch.randn(6 * layers * texels**2, 4, generator=stream)
    n = torch.randn(seen.z.shape, generator=stream, dtype=torch.float64)
    bound, first = texels_by_hand(seen.frames, seen.cameras, size, texels, layers, 1.8), 0
    for view in range(2):
        taken: set[int] = set()
        for pixel, texel in enumerate(bound[view].flatten().tolist()):
            if texel >= 0 and texel not in taken:
                n[view].flatten(1)[:, pixel] = field[texel].double()
                taken.add(texel)
        first += len(taken)
    assert first > 40 and len(set(bound[0].flatten().tolist()) & set(bound[1].flatten().tolist()) - {-1}) > 8
    z = math.sqrt(BAR[500]) * seen.z + math.sqrt(1 - BAR[500]) * n
    text, null = (0.3 * z + 0.5 + per(bias, z) for bias in (torch.arange(2).double() + 0.5, -torch.arange(2).double()))
    expected = math.sqrt((1 - BAR[500]) / BAR[500]) * (null + 71.0 * (text - null) - n)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (seen.calls, seen.rows) == (1, 4)


def test_cfd_keeps_its_field_or_renews_it_a_little() -> None:
    system, seen = CFD(CFD.Settings()), look(seed=4)
    system.gradient(seen)
    field = system.state_dict()["field"].clone()
    system.gradient(seen)
    assert torch.equal(system.state_dict()["field"], field)  # without `refresh` the noise stays for ever
    renewed = CFD(CFD.Settings(refresh=0.19))
    renewed.load_state_dict({"field": field})
    renewed.gradient(seen)
    after = renewed.state_dict()["field"]
    assert (after * field).mean().item() == pytest.approx(0.9, abs=0.02) and after.var() == pytest.approx(1, abs=0.02)


def test_disorder_counts_only_what_rises() -> None:
    """Likeness to the front along 0, 90, 180 degrees: falling is right, rising at the back is a second face."""
    front, other, back = torch.eye(3, dtype=torch.float64)
    angles = torch.tensor([180.0, 0.0, 90.0])
    fine = torch.stack([back, front, 0.6 * front + 0.8 * other])
    janus = torch.stack([front, front, 0.6 * front + 0.8 * other])
    assert disorder(fine, angles) == 0 and disorder(janus, angles).item() == pytest.approx(0.4)
    assert disorder(fine[:2], angles[:2]) == 0


def test_the_order_rule_points_down_its_own_loss() -> None:
    """g against finite differences of the loss at fixed eps."""
    seen, still = look(batch=4, seed=4), {"t_min": constant(0.1), "t_max": constant(0.1)}
    got = Order(Order.Settings(**still)).gradient(seen)
    draw = torch.randn(seen.z.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z_t = math.sqrt(BAR[100]) * seen.z + math.sqrt(1 - BAR[100]) * draw
    e = 0.3 * z_t + 0.1 - torch.arange(4).double()[:, None, None, None]
    x0 = (z_t - math.sqrt(1 - BAR[100]) * e) / math.sqrt(BAR[100])

    def loss(x: Tensor) -> Tensor:
        means = x.mean((2, 3))
        return disorder(means - means.mean(1, keepdim=True), seen.cameras.azimuth_deg)  # type: ignore[union-attr]

    direction = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction[0] = 0  # the front is what the others are held against, not moved itself
    slope = (loss(x0 + 1e-5 * direction) - loss(x0 - 1e-5 * direction)) / 2e-5
    assert (got * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-9) and slope != 0


def ends(system: Any, seed: int, rate: float) -> int:
    """In which of the two modes one particle ends; it starts a little nearer to the first, for every seed alike."""
    z = -0.2 + 0.1 * particles(seed=3)[:1]
    for i in range(30):
        seen = scene(z, seed=1000 * seed + i)
        seen.progress = Progress(i, 30)
        z = z - rate * system.gradient(seen)
    return int(z.mean() > 0)


def test_seeds_of_dsd_end_in_different_modes_where_those_of_sds_do_not() -> None:
    """Xu et al.: seeds differ. Not found, over ten seeds: that a run ends in the mode in which its own seed's path ends
    (5 of 10), nor any variety from a start near a mode (0.25 of the way): docs/systems.md.
    """
    common = {"cfg": constant(1.0), "weight": "uniform"}
    found = {
        "sds": {ends(SDS(SDS.Settings(**common)), seed, 0.2) for seed in (0, 1, 2, 5)},
        "dsd": {ends(DSD(DSD.Settings(**common, cfg_later=1.0, steps=5)), seed, 1.0) for seed in (0, 1, 2, 5)},
    }
    assert found["sds"] == {0} and found["dsd"] == {0, 1}, found
