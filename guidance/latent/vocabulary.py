# SPDX-License-Identifier: Apache-2.0
"""CLIP's tokenizer, for models that come as one file: those hold weights and no vocabulary.

The merges are OpenAI's own list (CLIP, MIT). Ids: 256 bytes, the same at the end of a word, a word for each of 48,894
merges, and two signs, 49,408 in all.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

from guidance.latent.loading import library, quiet

MERGES = Path(__file__).parent / "data" / "clip_merges.txt.gz"
COUNT = 49_152 - 256 - 2  # of the list's lines after its title; what follows was never used
LENGTH = 77
END = "<|endoftext|>"


@cache
def merges() -> tuple[str, ...]:
    with gzip.open(MERGES, "rt", encoding="utf-8") as lines:
        next(lines)
        return tuple(line.rstrip("\n") for line, _ in zip(lines, range(COUNT), strict=False))


def letters() -> list[str]:
    """A printable character for each byte, printable bytes first, as GPT-2 has them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]


def clip_tokenizer(pad: str = END) -> Any:
    """`pad` fills a text up: the end sign for OpenAI's encoders, "!" for OpenCLIP's, whose id is 0."""
    single = letters()
    words = [*single, *(f"{letter}</w>" for letter in single), *("".join(line.split()) for line in merges())]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", END])}
    with quiet():
        kind = library("transformers").CLIPTokenizer
        return kind(
            vocab=vocabulary, merges=[tuple(line.split()) for line in merges()], pad_token=pad, model_max_length=LENGTH
        )
