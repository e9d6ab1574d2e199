# SPDX-License-Identifier: Apache-2.0
"""Prompts as vectors for scenes that are told what to be: a bag of words, frozen, that needs no model.

Every word and every pair of neighbours stands for a fixed direction, drawn from a normal that the word itself seeds;
a text is their sum. The pairs keep apart what a bag of single words confuses: a red mushroom with a white stem, and a
white mushroom with a red stem. It knows no meaning: "scarlet" is as far from "red" as "blue" is.
"""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor

from dreamlab.core.streams import derive


def bag_of_words(text: str, width: int) -> Tensor:
    """[width], unit variance for one word or many."""
    words = re.findall(r"\w+", text.lower())
    names = [*words, *(" ".join(pair) for pair in itertools.pairwise(words))]
    if not names:
        return torch.zeros(width)
    drawn = [torch.randn(width, generator=torch.Generator().manual_seed(derive(0, "word", name))) for name in names]
    return torch.stack(drawn).sum(0) / len(names) ** 0.5


def squeezed(codes: Tensor, width: int) -> Tensor:
    """[P, D] at another width: a frozen random projection, which keeps angles (Johnson & Lindenstrauss 1984)."""
    size = codes.shape[1]
    if size == width:
        return codes
    stream = torch.Generator().manual_seed(derive(0, "projection", size, width))
    return codes @ torch.randn(size, width, generator=stream).to(codes) / size**0.5
