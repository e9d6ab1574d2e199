# SPDX-License-Identifier: Apache-2.0
"""What a cloud stops on a grid: every cell against the sum over all Gaussians in double."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamlab.core.rotation import matrix
from renderers.gaussian.density import NARROW, REACH, Density, density_of

Cloud = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def cloud(count: int, size: float, seed: int = 0) -> Cloud:
    """Of all sizes and shapes, some of them thin; a few reach out of what the grid may cover."""
    g = torch.Generator().manual_seed(seed)
    means = 0.5 * torch.randn(count, 3, generator=g)
    means[:2] = torch.tensor([[1.55, 0.2, -0.1], [0.1, -1.9, 0.0]])
    scales = size * (0.8 * torch.randn(count, 3, generator=g)).exp()
    quats, opacity = torch.randn(count, 4, generator=g), 0.05 + 0.9 * torch.rand(count, generator=g)
    return means, quats, scales, opacity, torch.rand(count, 3, generator=g)


def everywhere(found: Density) -> Tensor:
    """[X, Y, Z, 3] places of the grid."""
    axes = [low + found.cell * torch.arange(n) for low, n in zip(found.low.tolist(), found.values.shape, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def summed(found: Density, made: Cloud) -> tuple[Tensor, Tensor]:
    """[X, Y, Z] and [X, Y, Z, 3] in double, one Gaussian after another; and the worst that a cut-off may move."""
    means, quats, scales, opacity, colours = (value.double() for value in made)
    places = everywhere(found).double()
    total = places.new_zeros(*found.values.shape, 4)
    edge = places.new_zeros(found.values.shape)
    for i in range(len(means)):
        local = (places - means[i]) @ matrix(quats[i]) / scales[i].clamp(min=NARROW * found.cell)
        d2 = local.square().sum(-1)
        stops = -torch.log1p(-opacity[i].clamp(max=0.99)) * (-0.5 * d2).exp()
        total += torch.where(d2 < REACH**2, stops, 0.0)[..., None] * torch.cat([colours.new_ones(1), colours[i]])
        edge += torch.where((d2 - REACH**2).abs() < 0.01, stops, 0.0)  # rounding decides
    return total, edge


@pytest.mark.parametrize(("count", "size"), [(3, 0.3), (60, 0.05), (60, 0.004)])
def test_every_cell_holds_the_sum_over_all_gaussians(count: int, size: float) -> None:
    made = cloud(count, size)
    found = density_of(*made, 40)
    total, edge = summed(found, made)
    assert float(total[..., 0].max()) > 0.5
    assert ((found.values - total[..., 0]).abs() <= edge + 2e-4).all()
    seen = (total[..., 0] > 0.01) & (edge == 0)
    mean = (total[..., 1:] / total[..., :1])[seen].float()
    torch.testing.assert_close(found.colour(everywhere(found)[seen]), mean, atol=2e-3, rtol=0)


def test_colours_between_cells_are_weighted_by_what_stops_there() -> None:
    """A red ball that stops three times as much as a green one beside it."""
    means = torch.tensor([[-0.2, 0.0, 0.0], [0.2, 0.0, 0.0]])
    opacity = 1 - torch.exp(torch.tensor([-1.5, -0.5]))
    quats, scales = torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4), torch.full((2, 3), 0.2)
    found = density_of(means, quats, scales, opacity, torch.eye(3)[:2], 64)
    middle = found.colour(torch.zeros(1, 3))[0]
    torch.testing.assert_close(middle, torch.tensor([0.75, 0.25, 0.0]), atol=2e-3, rtol=0)
    assert found.colour(means)[0, 0] > 0.95 and found.colour(torch.full((1, 3), 9.0)).isfinite().all()
