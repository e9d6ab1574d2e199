# SPDX-License-Identifier: Apache-2.0
"""CLIP's tokenizer, for models that come as one file: those hold weights and no vocabulary.

The merges are OpenAI's own list (CLIP, MIT). Ids: 256 bytes, the same at the end of a word, a word for each of 48,894
merges, and two signs, 49,408 in all.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from dreamlab.core.cards import WordsHeard, beyond
from guidance.latent.loading import library, quiet

MERGES = Path(__file__).parent / "data" / "clip_merges.txt.gz"
COUNT = 49_152 - 256 - 2  # of the list's lines after its title; what follows was never used
LENGTH = 77
PRINTABLE = 188  # of the bytes
END = "<|endoftext|>"
# As OpenAI splits a text: endings, runs of letters, single digits, runs of signs.
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


@cache
def merges() -> tuple[str, ...]:
    with gzip.open(MERGES, "rt", encoding="utf-8") as lines:
        next(lines)
        return tuple(line.rstrip("\n") for line, _ in zip(lines, range(COUNT), strict=False))


def letters() -> list[str]:
    """A printable character for each byte of `byte_order`, as GPT-2 has them."""
    order = byte_order()
    return [chr(byte) for byte in order[:PRINTABLE]] + [chr(256 + i) for i in range(256 - PRINTABLE)]


def byte_order() -> list[int]:
    """Printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*printable, *(byte for byte in range(256) if byte not in printable)]


@cache
def ranks() -> dict[tuple[str, str], int]:
    """Which pairs are merged, the earliest first."""
    return {(first, second): i for i, (first, second) in enumerate(line.split() for line in merges())}


def clip_count(text: str) -> int:
    """Tokens of a text, without the two signs at its ends; needs no library."""
    known, letter = ranks(), dict(zip(byte_order(), letters(), strict=True))
    count = 0
    for piece in _PIECES.findall(unicodedata.normalize("NFC", text).lower()):
        parts = [letter[byte] for byte in piece.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            at = min(range(len(parts) - 1), key=lambda i: known.get((parts[i], parts[i + 1]), len(known)))
            if (parts[at], parts[at + 1]) not in known:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        count += len(parts)
    return count


def clip_hears(text: str) -> WordsHeard:
    """Any word; what is beyond LENGTH tokens is cut off."""
    limit = LENGTH - 2
    return WordsHeard(tokens=clip_count(text), limit=limit, unheard=beyond(text, clip_count, limit))


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
