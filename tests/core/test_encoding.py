# SPDX-License-Identifier: Apache-2.0
"""Prompts as vectors without a model: fixed, apart where the words differ, near where they are shared."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dreamlab.core.encoding import bag_of_words, squeezed

WIDTH = 256


def alike(a: str, b: str) -> float:
    return float(cosine_similarity(bag_of_words(a, WIDTH), bag_of_words(b, WIDTH), dim=0))


def test_the_same_words_are_the_same_vector_whatever_their_case_and_punctuation() -> None:
    assert torch.equal(bag_of_words("A red  mug.", WIDTH), bag_of_words("a red mug", WIDTH))
    assert abs(float(bag_of_words("a red mug with a blue handle", WIDTH).square().mean()) - 1) < 0.4


def test_pairs_keep_apart_what_single_words_confuse() -> None:
    """The same bag of words; the pairs are 9 directions of 15, of which 2 of 7 remain."""
    same = alike("a red mushroom with a white stem", "a white mushroom with a red stem")
    assert 0.5 < same < 0.9, same
    assert abs(alike("red mug", "green pear")) < 0.25  # four deviations of 1 / sqrt(256)
    assert alike("a red mug", "a red pear") > 0.3


def test_nothing_said_is_zero() -> None:
    assert not bag_of_words("...", 8).any()


def test_a_projection_keeps_angles() -> None:
    codes = torch.randn(6, 512, generator=torch.Generator().manual_seed(0))
    codes[1] = codes[0] + 0.5 * codes[1]

    def angles(x: Tensor) -> Tensor:
        return cosine_similarity(x[:, None], x[None], dim=-1)

    error = (angles(squeezed(codes, WIDTH)) - angles(codes)).abs().max()
    assert error < 5 / WIDTH**0.5, error
    assert squeezed(codes, 512) is codes
