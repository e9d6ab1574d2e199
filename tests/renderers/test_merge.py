# SPDX-License-Identifier: Apache-2.0
"""Layers and samples along one ray, against sums done by hand and integrals in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cuda_ext.march import Samples
from dreamlab.core.cameras import Cameras, orbit
from renderers.field.merge import SOLID, Fog, Layer, merge

RED, GREEN, BLUE = torch.eye(3)


def eye() -> Cameras:
    """One camera whose single pixel looks along the axis, so that t is camera z."""
    return orbit([0.0], elevation_deg=0.0)


def flat(colour: Tensor, alpha: float, depth: float, **kind: torch.dtype) -> Layer:
    """One pixel."""
    a = torch.full((1, 1, 1, 1), alpha, **kind)
    return Layer(a * colour.to(a), a, torch.full_like(a, depth))


def slab(colour: Tensor, sigma: float, begin: float, end: float, step: float) -> Fog:
    """Fog of one density, cut into intervals."""
    edges = torch.linspace(begin, end, round((end - begin) / step) + 1)
    count = len(edges) - 1
    samples = Samples(torch.tensor([0, count]), edges[:-1].contiguous(), edges[1:].contiguous())
    return Fog(samples, torch.full((count,), sigma), colour.expand(count, 3).contiguous())


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearest_layer_hides_the_others(order: tuple[int, int]) -> None:
    layers = [flat(RED, 0.5, 2.0), flat(GREEN, 0.8, 1.0)]
    shown = merge([layers[i] for i in order], [], eye(), 1)
    # Green in front: 0.8; red behind it: 0.5 of the 0.2 left.
    torch.testing.assert_close(shown.values[0, 0, 0], torch.tensor([0.1, 0.8, 0.0]))
    assert float(shown.alpha) == pytest.approx(0.9) and float(shown.depth) == pytest.approx(1.0 / 0.9)
    solid = merge([flat(RED, 1.0, 2.0), flat(GREEN, 1.0, 1.0)], [], eye(), 1)
    torch.testing.assert_close(solid.values[0, 0, 0], GREEN, atol=2e-6, rtol=0)


def test_gradients_are_those_of_the_sums_by_hand() -> None:
    """rgb = g + (1 - a_g) r for premultiplied g in front of r, in every argument."""
    green = torch.tensor([0.1, 0.6, 0.2, 0.7], requires_grad=True)  # premultiplied colour, alpha
    red = torch.tensor([0.3, 0.1, 0.0, 0.4], requires_grad=True)
    pull = torch.tensor([1.0, -2.0, 0.5, 0.3])

    def layer(values: Tensor, depth: float) -> Layer:
        picture = values.reshape(1, 1, 1, 4)
        return Layer(picture[..., :3], picture[..., 3:], torch.full((1, 1, 1, 1), depth))

    shown = merge([layer(red, 2.0), layer(green, 1.0)], [], eye(), 1)
    ours = torch.autograd.grad((torch.cat([shown.values, shown.alpha], -1).flatten() * pull).sum(), (green, red))
    theirs = torch.autograd.grad(((green + (1 - green[3]) * red) * pull).sum(), (green, red))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_fog_before_and_behind_a_surface() -> None:
    """Fog of density 2 over one metre, an opaque wall in its middle: 1 - exp(-1) of fog, the rest is wall."""
    shown = merge([flat(RED, 1.0, 1.5)], [slab(BLUE, 2.0, 1.0, 2.0, 0.02)], eye(), 1)
    expected = (1 - math.exp(-1)) * BLUE + math.exp(-1) * RED
    torch.testing.assert_close(shown.values[0, 0, 0], expected, atol=1e-5, rtol=0)
    assert float(shown.alpha) == pytest.approx(SOLID, abs=1e-5)


def test_volumes_in_each_other_add_their_densities() -> None:
    """Two fogs that share half a metre: the closed form of emission and absorption, and an error that falls with the
    step, though their intervals do not meet."""

    def light(begin: float, end: float, share: float) -> float:
        return share * (math.exp(-begin) - math.exp(-end))

    a, b = 3.0, 5.0  # red over [1, 2], green over [1.5, 2.5]
    first, both, last = a * 0.5, (a + b) * 0.5, b * 0.5  # optical depth of the three parts
    red = light(0, first, 1.0) + light(first, first + both, a / (a + b))
    green = light(first, first + both, b / (a + b)) + light(first + both, first + both + last, 1.0)
    errors = []
    for step in (0.05, 0.025, 0.0125):
        finer = slab(GREEN, b, 1.5, 2.5, 0.8 * step)
        shown = merge([], [slab(RED, a, 1.0, 2.0, step), finer], eye(), 1).values[0, 0, 0]
        assert float(shown.sum()) == pytest.approx(1 - math.exp(-first - both - last), abs=1e-5)  # alpha is exact
        error = max(abs(float(shown[0]) - red), abs(float(shown[1]) - green))
        pairs = 0.5 / step  # of intervals that may stand in the wrong order, each by no more than both stop
        assert error < pairs * (1 - math.exp(-a * step)) * (1 - math.exp(-b * step))
        errors.append(error)
    assert errors[2] < 0.5 * errors[0]


def test_a_smoothed_edge_has_its_neighbours_depth() -> None:
    """A pixel that a silhouette only touches has no depth of its own: it must not come to stand before everything."""
    alpha = torch.tensor([1.0, 0.3, 0.0]).reshape(1, 1, 3, 1).expand(1, 3, 3, 1)
    depth = torch.tensor([2.0, 0.0, 0.0]).reshape(1, 1, 3, 1).expand(1, 3, 3, 1)
    near = Layer(torch.ones(1, 3, 3, 1) * GREEN, torch.ones(1, 3, 3, 1), torch.full((1, 3, 3, 1), 1.0))
    shown = merge([Layer(alpha * RED, alpha, depth), near], [], orbit([0.0]), 3)
    torch.testing.assert_close(shown.values, near.values, atol=1e-5, rtol=0)


def test_padding_belongs_to_no_ray() -> None:
    fog = slab(BLUE, 1.0, 1.0, 2.0, 0.1)
    ends = [torch.cat([t, torch.zeros(4)]) for t in (fog.samples.t_start, fog.samples.t_end)]
    padded = Fog(Samples(fog.samples.offsets, *ends), torch.ones(14), BLUE.expand(14, 3))
    for layers in ([], [flat(RED, 0.5, 1.5)]):
        one, other = merge(layers, [fog], eye(), 1), merge(layers, [padded], eye(), 1)
        torch.testing.assert_close(one.values, other.values)
