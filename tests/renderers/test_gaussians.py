# SPDX-License-Identifier: Apache-2.0
"""The Gaussian scene: starts as its settings say, keeps its state, and fits pictures it is shown."""

from __future__ import annotations

import torch

from dreamlab.core.cameras import turntable
from dreamlab.core.schedules import Progress, constant
from dreamlab.core.types import Training
from dreamlab.run.optim import Adam
from dreamlab.toybox.draw import draw
from dreamlab.toybox.shapes import program
from renderers.gaussians import Gaussians


def scene(count: int = 300, seed: int = 0, **settings: object) -> Gaussians:
    made = Gaussians.Settings(count=count, **settings)  # type: ignore[arg-type]
    return Gaussians(made, torch.Generator().manual_seed(seed))


def test_seeded_uniformly_in_the_ball() -> None:
    """Radii of points uniform in a ball: (r / R)^3 is uniform; Kolmogorov-Smirnov at the 1e-4 quantile."""
    made = scene(4000, radius=0.5)
    ranks = (made.params["means"].detach().double().norm(dim=-1) / 0.5).pow(3).sort().values
    assert (ranks - (torch.arange(4000) + 0.5) / 4000).abs().max() < 2.23 / 4000**0.5
    torch.testing.assert_close(made.params["logit_opacity"].detach().sigmoid(), torch.full((4000,), 0.1))


def test_state_round_trip_renders_the_same(tmp_path: object) -> None:
    first, second = scene(), scene(count=7, seed=5)
    second.load_state_dict(first.state_dict())
    cameras, background = turntable(2), torch.rand(2, 3)
    a, b = (made.render(cameras, 24, background) for made in (first, second))
    assert torch.equal(a.rgb, b.rgb) and torch.equal(a.depth, b.depth)


def test_frames_are_premultiplied_over_the_background() -> None:
    made = scene()
    cameras = turntable(2)
    black = made.render(cameras, 24, torch.zeros(2, 3))
    over = made.render(cameras, 24, torch.tensor([[0.2, 0.5, 0.9]] * 2))
    expected = black.rgb + (1 - black.alpha) * torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(over.rgb, expected, atol=1e-6, rtol=1e-5)


def test_none_is_longer_than_it_may_be_while_it_learns_and_its_shortest_axis_stays() -> None:
    made, free = (scene(slender=slender) for slender in (3.0, 0.0))
    with torch.no_grad():
        for each in (made, free):
            each.params["log_scales"] += torch.tensor([0.0, 2.0, -1.0])
    before = made.params["log_scales"].detach().clone()
    training = Training(Progress(0, 10), torch.Generator())
    for each in (made, free):
        each.render(turntable(1), 8, torch.ones(1, 3), training)
    axes = made.params["log_scales"].detach().exp()
    assert float((axes.amax(1) / axes.amin(1)).max()) < 3.0 + 1e-4
    torch.testing.assert_close(axes.amin(1), before.exp().amin(1))
    torch.testing.assert_close(free.params["log_scales"].detach(), before)


def test_fits_pictures_of_a_known_object() -> None:
    """150 Adam steps on 12 views of the world's mushroom reach 22 dB on views in between (a gray frame: 10 dB)."""
    target = program("mushroom")
    shown, held = turntable(12), turntable(24)[torch.arange(1, 24, 4)]
    truth = draw(target, shown, 32).over(1.0)[0]
    made = scene(600, lr_means=constant(0.01))
    adam = Adam(made)
    white = torch.ones(12, 3)
    for i in range(150):
        frames = made.render(shown, 32, white)
        (frames.rgb - truth).square().sum().backward()
        adam.step(Progress(i, 150), torch.tensor(True), frames.visible)
    unseen = draw(target, held, 32).over(1.0)[0]
    error = (made.render(held, 32, torch.ones(6, 3)).rgb.detach() - unseen).square().mean()
    assert -10 * torch.log10(error) > 22
