# SPDX-License-Identifier: Apache-2.0
"""`density`: native and twin against a sum over all Gaussians in double, how much work it is, what is no Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cuda_ext import build
from cuda_ext.density import density
from cuda_ext.reference import density as reference
from dreamlab.core.rotation import matrix

BACKENDS = ("native", "torch")
Cloud = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _native() -> None:
    if build.compiler() is None:
        pytest.skip("no host compiler")


def cloud(count: int, width: float, across: float, seed: int = 0) -> Cloud:
    """Of all shapes, needles among them; some lie beside the grid."""
    g = torch.Generator().manual_seed(seed)
    places = across * (1.4 * torch.rand(count, 3, generator=g) - 0.2)
    widths = (width * torch.randn(count, 3, generator=g).exp()).clamp(min=0.3)
    return places, matrix(torch.randn(count, 4, generator=g)), widths, torch.randn(count, 4, generator=g)


def summed(made: Cloud, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """[4, X, Y, Z] in double, a Gaussian after another; and what rounding at the cut-off may move."""
    places, turns, widths, weights = (each.double() for each in made)
    cells = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in size), indexing="ij"), -1)
    total, edge = torch.zeros(4, *size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for place, turn, width, weight in zip(places, turns, widths, weights, strict=True):
        square = ((cells - place) @ turn / width).square().sum(-1)
        value = (-0.5 * square).exp()
        total += weight[:, None, None, None] * torch.where(square < reference.REACH**2, value, 0.0)
        edge += torch.where((square - reference.REACH**2).abs() < 0.01, value, 0.0) * weight.abs().max()
    return total, edge


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("count", "width", "size"),
    [(1, 3.0, (20, 20, 20)), (40, 2.0, (37, 18, 51)), (40, 9.0, (24, 24, 24)), (5, 0.3, (1, 2, 3))],
)
def test_every_cell_holds_the_sum_over_all_gaussians(
    count: int, width: float, size: tuple[int, int, int], backend: str
) -> None:
    made = cloud(count, width, max(size))
    found, (total, edge) = density(*made, size, backend=backend), summed(made, size)
    assert found.shape == (4, *size) and float(total.abs().max()) > 0.05
    assert ((found - total).abs() <= edge + 2e-4).all()
    assert ((found - total).abs() <= 2e-5 * (1 + total.abs())).double().mean() > 0.98


def test_a_needle_across_the_whole_grid_is_exact_to_its_end() -> None:
    """300 cells long and half a cell thin: its quadratic cancels six digits."""
    turn = matrix(torch.tensor([[1.0, 0.3, 0.2, -0.4]]))
    made = (torch.tensor([[60.3, 59.8, 60.1]]), turn, torch.tensor([[0.5, 100.0, 0.5]]), torch.ones(1, 4))
    found, (total, edge) = density(*made, (120, 120, 120), backend="native"), summed(made, (120, 120, 120))
    assert int((total[0] > 0.1).sum()) > 100
    assert ((found - total).abs() <= edge + 1e-4).all()


def test_any_thread_count_gives_the_same_bits() -> None:
    made = cloud(500, 2.0, 60)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = density(*made, (60, 50, 40), backend="native")
        torch.set_num_threads(3)
        assert torch.equal(one, density(*made, (60, 50, 40), backend="native"))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e-39])
def test_what_is_no_gaussian_adds_nothing(which: int, bad: float) -> None:
    made = cloud(6, 2.0, 12)
    broken = [each.clone() for each in made]
    broken[which][2].view(-1)[1] = bad
    found, other = (density(*broken, (12, 11, 13), backend=backend) for backend in BACKENDS)
    torch.testing.assert_close(found, other, atol=2e-2, rtol=0)
    if abs(bad) < float("inf") and which != 2:  # a number like others, but for a width
        return
    alone = [torch.cat([each[:2], each[3:]]) for each in made]
    torch.testing.assert_close(found, density(*alone, (12, 11, 13), backend="native"))


def test_nothing_gives_zeros_and_wrong_shapes_are_one_line() -> None:
    none = tuple(each[:0] for each in cloud(2, 1.0, 4))
    for backend in BACKENDS:
        assert not density(*none, (3, 4, 5), backend=backend).any()
    made = cloud(2, 1.0, 4)
    with pytest.raises(ValueError, match=r"density: weights must be \[2, 4\]"):
        density(*made[:3], made[3][:, :3], (3, 4, 5))
    with pytest.raises(ValueError, match="size is three of 1 to 32767"):
        density(*made, (3, 0, 5))


def test_compiles_as_a_graph_op() -> None:
    given = (*cloud(3, 1.0, 6), 5, 6, 7)
    torch.library.opcheck(torch.ops.dreamlab.density.default, given, test_utils=("test_schema", "test_faketensor"))


def test_what_the_twin_does_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = cloud(50, 2.0, 30)
    whole = density(*made, (30, 30, 30), backend="torch")
    monkeypatch.setattr(reference, "PAIRS", 97)
    monkeypatch.setattr(reference, "BLOCK", 32)
    torch.testing.assert_close(density(*made, (30, 30, 30), backend="torch"), whole, atol=1e-5, rtol=1e-5)


def test_the_twins_work_grows_with_the_gaussians_and_with_the_cells_they_touch() -> None:
    """Twice the Gaussians, twice the pairs; a disc touches an area, not the volume of the box around it."""
    g = torch.Generator().manual_seed(0)
    turns, places = matrix(torch.randn(400, 4, generator=g)), 50 + 30 * torch.rand(400, 3, generator=g)

    def of(widths: list[float], some: int) -> int:
        turned, wide = turns[:some], torch.tensor(widths).expand(some, 3)
        inverse = turned.transpose(1, 2) / wide[:, :, None]
        reach = reference.REACH * (turned * wide[:, None]).square().sum(-1).sqrt()
        return sum(len(brick) for _, brick in reference._pairs(places[:some], inverse, reach, (130, 130, 130)))

    ball, disc, large = [3.0] * 3, [10.0, 10.0, 0.6], [10.0] * 3
    assert of(ball, 400) == pytest.approx(2 * of(ball, 200), rel=0.05)
    cells = 4 / 3 * torch.pi * (reference.REACH * 3) ** 3  # that a ball touches
    assert of(ball, 400) * reference.BRICK**3 < 3 * 400 * cells
    assert of(disc, 100) < 0.2 * of(large, 100)
