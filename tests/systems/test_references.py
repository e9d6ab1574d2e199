# SPDX-License-Identifier: Apache-2.0
"""Depth up to scale and in order, calibration by reference views, and guides for the shape."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamlab.core.schedules import constant
from dreamlab.core.types import Condition
from systems.engine.depth_terms import out_of_order, unlike
from systems.engine.features import of_latents
from systems.engine.residual import Look
from systems.palette import NearestColours
from systems.photometric import Photometric
from systems.sgc import SGC, levelled
from systems.shape_guides import Box, Cloud, Part, sketched, surface
from tests.systems.test_newest import sphere
from tests.systems.test_residual import Linear, look


def test_depth_is_compared_without_scale_and_shift() -> None:
    """Against numpy's correlation coefficient, over the mask only."""
    depth, other = torch.rand(2, 3, 8, 8, 1, dtype=torch.float64)
    there = torch.rand(3, 8, 8, 1) > 0.3
    expected = [
        1 - np.corrcoef(depth[b][there[b]].numpy(), other[b][there[b]].numpy())[0, 1] for b in range(3)
    ]  # fmt: skip
    assert unlike(depth, other, there).item() == pytest.approx(np.mean(expected))
    assert unlike(2.5 * other + 7, other, there).item() == pytest.approx(0, abs=1e-9)
    assert unlike(-other, other, there).item() == pytest.approx(2)
    assert unlike(torch.ones_like(other), other, there).item() == pytest.approx(1)


def test_order_is_all_that_rank_asks() -> None:
    known, there = torch.rand(2, 8, 8, 1, dtype=torch.float64), torch.ones(2, 8, 8, 1, dtype=torch.bool)

    def rank(depth: Tensor) -> float:
        return float(out_of_order(depth, known, there, torch.Generator().manual_seed(0)))

    assert rank(10 * known**3) < 1e-4 and rank(-known) > 0.2
    i, j = torch.randint(64, (2, 2, 4096), generator=torch.Generator().manual_seed(0))
    pairs = [(known[b].flatten()[i[b]] - known[b].flatten()[j[b]])[i[b] != j[b]] for b in range(2)]
    assert rank(-known) == pytest.approx(float(torch.cat(pairs).abs().mean()) + 1e-4)  # every pair wrong by its gap


def known_sphere(shrink: float = 1.0) -> Look:
    """Frames of a sphere, the truth the same sphere at another scale of depth."""
    seen = look(batch=2, seed=4)
    frames, cameras = sphere([0.0, 40.0], size=24)
    rows = {"rgb": frames.rgb, "alpha": frames.alpha, "depth": shrink * frames.depth, "normal": frames.rgb}
    seen.frames, seen.cameras, seen.conditions = frames, cameras, {"truth": Condition(rows)}
    return seen


def test_photometric_hears_depth_and_rank() -> None:
    for name in ("depth", "rank"):
        rule = Photometric(Photometric.Settings(rgb=constant(0.0), **{name: constant(2.0)}))
        seen = known_sphere(shrink=0.3)
        assert rule.loss(seen).item() == pytest.approx(0, abs=1e-3)
        assert seen.frames is not None
        seen.frames = replace(seen.frames, depth=-seen.frames.depth)
        assert rule.loss(seen) > 0.1


def test_calibration_is_blind_to_depth_scale_and_sees_colour() -> None:
    rule, seen = SGC(SGC.Settings()), known_sphere(shrink=0.3)
    assert rule.loss(seen).item() == pytest.approx(0, abs=1e-6)
    assert seen.frames is not None
    there = seen.frames.alpha > 0.5
    flat = levelled(seen.frames.depth, there)
    assert (flat * there).sum((1, 2, 3)).abs().max() < 1e-9
    assert ((flat.abs() * there).sum((1, 2, 3)) / there.sum((1, 2, 3))).tolist() == pytest.approx([1.0, 1.0])
    seen.frames = replace(seen.frames, rgb=1 - seen.frames.rgb)
    assert rule.loss(seen).item() == pytest.approx(1.0, abs=1e-6)  # a = 0.5, cosine -1


class Seeing(Linear):
    """A guidance with features: of a picture its mean colour, so that likeness is that of colours."""

    def features(self, rgb: Tensor) -> Tensor:
        assert rgb.shape[-1] == 3
        return rgb.mean((1, 2))


def test_likeness_is_by_the_features_of_a_guidance_that_sees_any() -> None:
    """sgc: 0.5 (1 - cosine of mean colours), whatever stands where; order: by the decoded clean picture."""
    seen = known_sphere()
    assert seen.frames is not None
    red, flipped = torch.zeros(2, 24, 24, 3, dtype=torch.float64), torch.zeros(2, 24, 24, 3, dtype=torch.float64)
    red[:, :12, :, 0], flipped[:, 12:, :, 0] = 1.0, 1.0
    seen.guidance = Seeing()
    for other, expected in ((flipped, 0.0), (flipped.roll(1, -1), 0.5)):  # red below; green below
        seen.frames = replace(seen.frames, rgb=red)
        seen.conditions = {"truth": Condition({**seen.conditions["truth"].rows, "rgb": other})}
        loss = SGC(SGC.Settings(geometric=constant(0.0))).loss(seen)
        assert loss.item() == pytest.approx(expected, abs=1e-9)
    z = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(of_latents(Seeing(), z), z[:, :3].mean((2, 3)))
    pooled = of_latents(Linear(), torch.arange(64.0).reshape(1, 1, 8, 8))
    torch.testing.assert_close(pooled, torch.arange(64.0)[None] - 31.5)


TWO = torch.tensor([[0.8, 0.2, 0.2], [0.2, 0.2, 0.8]], dtype=torch.float64)


def of_two_colours(opacity: Tensor, colour: Tensor, hidden: list[float]) -> Look:
    """Two views of 4 x 4 pixels of one colour and alpha before green, and a picture of red and blue: a colour is
    nearest to red where it has more of red than of blue."""
    seen = look(batch=2, seed=4)
    level = torch.arange(8, dtype=torch.float64)
    table = torch.where((level[:, None, None] >= level)[..., None], TWO[0], TWO[1]).expand(8, 8, 8, 3)
    alpha = opacity.expand(2, 4, 4, 1)
    background = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(2, 3)
    assert seen.frames is not None
    rgb = alpha * colour + (1 - alpha) * background[:, None, None]
    seen.frames = replace(seen.frames, rgb=rgb, alpha=alpha, background=background)
    told = Condition({"hidden": torch.tensor(hidden, dtype=torch.float64)}, {"near": table})
    seen.conditions = {"colours": told}
    return seen


def test_a_palette_pulls_colours_to_their_nearest_and_asks_for_no_other_shape() -> None:
    """(1/2)^behind of the first view and all of the second, of the squared distance to red times alpha squared."""
    opacity = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    colour = torch.tensor([0.7, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    apart = 0.7**2 * (0.1**2 + 0.3**2 + 0.1**2) / 3
    for behind, share in ((0.0, 1.0), (1.0, 0.75), (2.0, 0.625)):
        rule = NearestColours(NearestColours.Settings(pull=constant(2.0), behind=behind))
        loss = rule.loss(of_two_colours(opacity, colour, [0.5, 1.0]))
        assert loss.item() == pytest.approx(2 * share * apart)
    (slope,) = torch.autograd.grad(loss, colour)
    torch.testing.assert_close(slope, 2 * 0.625 * 2 * 0.7**2 * (colour.detach() - TWO[0]) / 3)
    rule = NearestColours(NearestColours.Settings())
    for own in TWO:  # a colour of the picture's asks for nothing, of the alpha neither
        loss = rule.loss(of_two_colours(opacity, own, [1.0, 1.0]))
        (slope,) = torch.autograd.grad(loss, opacity)
        assert loss.item() == pytest.approx(0, abs=1e-12) and slope.item() == pytest.approx(0, abs=1e-12)
    assert rule.loss(of_two_colours(opacity.detach() / 2, colour, [1.0, 1.0])) == 0  # hardly there: it has no colour


def test_the_rendered_surface_is_where_the_sphere_is() -> None:
    points, alpha = surface(known_sphere())
    assert len(points) > 200 and (points.norm(dim=-1) - 0.8).abs().max() < 1e-6 and (alpha == 1).all()


def test_a_box_punishes_only_what_is_outside_and_pulls_it_in() -> None:
    seen = known_sphere()
    assert seen.frames is not None
    assert Box(Box.Settings()).loss(seen) == 0
    depth = seen.frames.depth.clone().requires_grad_()
    seen.frames = replace(seen.frames, depth=depth)
    loss = Box(Box.Settings(z=(-1.0, 0.5))).loss(seen)  # the front cap of the first view sticks out
    (slope,) = torch.autograd.grad(loss, depth)
    points, _ = surface(seen)
    expected = (points[:, 2] - 0.5).relu().square().sum() / depth.numel()
    torch.testing.assert_close(loss, expected)
    assert slope[0, 12, 12, 0] < 0  # farther from the camera is back inside


def test_a_cloud_pulls_the_surface_to_its_points(tmp_path: Path) -> None:
    file = tmp_path / "points.txt"
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    file.write_text("\n".join(" ".join(f"{v:.6f}" for v in row) for row in (0.8 * directions).tolist()))
    seen = known_sphere()
    near = Cloud(Cloud.Settings(points=str(file))).loss(seen)
    assert near < 0.01  # only the gaps between the points
    file.write_text("\n".join(" ".join(f"{v:.6f}" for v in row) for row in (0.5 * directions).tolist()))
    far = Cloud(Cloud.Settings(points=str(file))).loss(seen)
    assert far.item() == pytest.approx(0.09, rel=0.05)  # 0.3 metres, squared
    assert Cloud(Cloud.Settings(points=str(file), near=0.35)).loss(seen) == 0
    assert Cloud.card(Cloud.Settings()).complaint and not Cloud.card(Cloud.Settings(points=str(file))).complaint
    assert math.isfinite(float(Cloud(Cloud.Settings(points=str(file), cover=1.0)).loss(seen)))


def test_a_sketch_is_the_outside_of_its_bodies() -> None:
    ball, rod = Part("ball", (0.0, 0.5, 0.0), (0.6, 0.6, 0.6)), Part("rod", (0.0, 0.0, 0.0), (0.2, 1.0, 0.2))
    points = sketched((ball, rod))
    away = (points - torch.tensor(ball.at)).norm(dim=-1)
    beside = points[:, [0, 2]].norm(dim=-1)
    on_ball = (away - 0.3).abs() < 1e-5
    side, cap = (beside - 0.1).abs() < 1e-5, (points[:, 1].abs() - 0.5).abs() < 1e-5
    on_rod = (side & (points[:, 1].abs() <= 0.5)) | (cap & (beside <= 0.1 + 1e-5))
    assert (on_ball | on_rod).all() and on_ball.sum() > 1500 and (on_rod & ~on_ball).sum() > 500
    assert not ((away < 0.29) & on_rod).any() and not (on_ball & (beside < 0.09) & (points[:, 1] < 0.49)).any()
    box = sketched((Part("box", (1.0, 0.0, 0.0), (2.0, 1.0, 0.5)),))
    local = (box - torch.tensor([1.0, 0.0, 0.0])) / torch.tensor([1.0, 0.5, 0.25])
    assert (local.abs().amax(-1) - 1).abs().max() < 1e-5
    assert not Cloud.card(Cloud.Settings(sketch=(ball,))).complaint
    assert Cloud.card(Cloud.Settings(points="x", sketch=(ball,))).complaint == "give points or a sketch, not both"
    seen = known_sphere()
    fits = Cloud(Cloud.Settings(sketch=(Part("ball", size=(1.6, 1.6, 1.6)),), cover=1.0))
    assert fits.loss(seen) < Cloud(Cloud.Settings(sketch=(Part("box"),), cover=1.0)).loss(seen)
