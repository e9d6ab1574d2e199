# SPDX-License-Identifier: Apache-2.0
"""The side that a picture was taken from, by what the words make; against the world's own pictures."""

from __future__ import annotations

import torch

from dreamlab.core.cameras import orbit
from dreamlab.toybox.training.sample import scene_of
from guidance.toybox.reader import TURNS
from guidance.toybox.sides import AROUND, azimuths, best_side, framed, likeness


def seen(words: str, azimuth: list[float]) -> torch.Tensor:
    frames, _ = scene_of(words, orbit(azimuth, 20.0, 3.2, 42.0), 64)
    return framed(frames.rgb - 0.7 * (1 - frames.alpha), frames.alpha)


def test_a_picture_is_most_like_its_own_side_and_unlike_the_opposite() -> None:
    around = seen("a red truck with black wheels", azimuths().tolist())
    assert around.shape == (AROUND, 32, 32, 4)
    for index in (3, 14, 27):
        alike = likeness(around[index : index + 1], around)
        assert int(alike.argmax()) == index and abs(float(alike[index]) - 1) < 1e-5
        assert float(alike[index] - alike[(index + AROUND // 2) % AROUND]) > 0.1


def test_likeness_is_overlap_less_the_difference_of_colours() -> None:
    """Black squares of 16 rows, 8 of them shared: a third; the same square in white: one less three."""
    first, second = torch.zeros(1, 32, 32, 4), torch.zeros(2, 32, 32, 4)
    first[:, :16, :16, 3] = 1
    second[0, 8:24, :16, 3] = 1
    second[1, :16, :16] = 1
    torch.testing.assert_close(likeness(first, second), torch.tensor([1 / 3, 1.0 - 3.0]))


def test_what_the_reader_says_decides_where_sides_look_alike() -> None:
    alike = torch.zeros(AROUND)
    alike[[9, 27]] = 1.0  # -90 and 90 degrees
    turn = torch.full((TURNS,), 1e-3)
    turn[18] = 0.5  # 90 degrees
    assert best_side(alike, turn) == 90.0
    turn = turn.roll(36)
    assert best_side(alike, turn) == -90.0
    alike[27] = 1.6  # and is overruled where they do not
    assert best_side(alike, turn) == 90.0
