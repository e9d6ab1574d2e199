# SPDX-License-Identifier: Apache-2.0
"""What a cloud stops on a grid: every cell against the sum over all Gaussians in double, and how much work it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamlab.core.rotation import matrix
from renderers.gaussian import density
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
    axes = [low + found.cell * torch.arange(n) for low, n in zip(found.low.tolist(), found.size, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def summed(found: Density, made: Cloud) -> tuple[Tensor, Tensor]:
    """[X, Y, Z] and [X, Y, Z, 3] in double, one Gaussian after another; and the worst that a cut-off may move."""
    means, quats, scales, opacity, colours = (value.double() for value in made)
    places = everywhere(found).double()
    total = places.new_zeros(*found.size, 4)
    edge = places.new_zeros(found.size)
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


def test_what_is_done_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = cloud(50, 0.06)
    whole = density_of(*made, 40)
    monkeypatch.setattr(density, "PAIRS", 97)
    monkeypatch.setattr(density, "BLOCK", 32)
    parts = density_of(*made, 40)
    torch.testing.assert_close(parts.bricks, whole.bricks, atol=1e-5, rtol=1e-5)


def bricks_of(made: Cloud, cell: float) -> int:
    """Pairs of a Gaussian and a brick that are evaluated, on a grid of 100 cells a side."""
    means, quats, scales, _, _ = made
    turns, widths = matrix(quats), (scales / cell).clamp(min=NARROW)
    inverse = turns.transpose(1, 2) / widths[:, :, None]
    reach = REACH * (turns * widths[:, None]).square().sum(-1).sqrt()
    pairs = density._pairs(means / cell + 50, inverse, reach, (100, 100, 100))
    return sum(len(brick) for _, brick in pairs)


def test_the_work_grows_with_the_gaussians_and_with_the_cells_they_touch() -> None:
    """Twice the Gaussians, twice the pairs; a disc touches an area, not the volume of the box around it."""
    g = torch.Generator().manual_seed(0)
    turns = torch.randn(400, 4, generator=g)
    means = 0.3 * torch.rand(400, 3, generator=g)
    spare = torch.zeros(400)

    def of(scales: list[float], some: int) -> int:
        made = (means[:some], turns[:some], torch.tensor(scales).expand(some, 3), spare, means)
        return bricks_of(made, 0.01)

    ball, disc, large = [0.03] * 3, [0.1, 0.1, 0.001], [0.1] * 3
    assert of(ball, 400) == pytest.approx(2 * of(ball, 200), rel=0.05)
    cells = 4 / 3 * torch.pi * (REACH * 3) ** 3  # that a ball touches
    assert of(ball, 400) * density.BRICK**3 < 3 * 400 * cells
    assert of(disc, 100) < 0.2 * of(large, 100)
