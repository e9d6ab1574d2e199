# SPDX-License-Identifier: Apache-2.0
"""Needles, counted on silhouettes that are drawn by hand."""

from __future__ import annotations

import torch

from dreamlab.metrics.needles import SIZE, needles


def disc(radius: float) -> torch.Tensor:
    line = torch.arange(SIZE) - SIZE / 2 + 0.5
    return (line[:, None].square() + line.square() < radius**2).float()[None, ..., None]


def test_a_body_has_none_and_each_line_that_leaves_it_is_one() -> None:
    plain = disc(60.0)
    assert needles(plain).count == 0 and needles(plain).share < 0.002
    spiked = plain.clone()
    for row in (100, 128, 156):
        spiked[0, row, 180:220] = 1.0
    found = needles(spiked)
    assert found.count == 3 and 0.005 < found.share < 0.02
    assert needles(torch.cat([plain, spiked])).count == 1.5


def test_what_floats_thin_counts_and_a_rod_as_wide_as_the_disc_does_not() -> None:
    floating, rod = disc(60.0), disc(60.0)
    floating[0, 20:32, 30] = 1.0
    rod[0, 120:125, 180:230] = 1.0  # five pixels: the disc's diameter
    assert needles(floating).count == 1
    assert needles(rod).count == 0


def test_what_cannot_be_seen_does_not_count() -> None:
    faint = disc(60.0)
    faint[0, 128, 180:230] = 0.05
    assert needles(faint).count == 0
    assert needles(torch.zeros(1, SIZE, SIZE, 1)).share == 0
