# SPDX-License-Identifier: Apache-2.0
"""A CLIP tokenizer of the world's words: byte-pair merges learnt from its vocabulary until each word is one token.

Any other text still has tokens, of letters and pieces. The files are those of every Stable Diffusion folder; the last
id is <|endoftext|>, which also pads (Radford et al. 2021).
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dreamlab.core.files import disk_errors, write_atomic
from dreamlab.core.prompting import DIRECTIONS
from dreamlab.toybox import caption as world
from dreamlab.toybox.training.sd.shapes import WORDS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END, LAST = "<|startoftext|>", "<|endoftext|>", "</w>"
# What recipes put in the negative prompt; said in place of nothing, it must mean nothing.
NEGATIVES = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, "
    "lowres, low quality, artifacts, duplicate",
    "oversaturated color, ugly, tiling, low quality, noisy",
    "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy",
    "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, oversaturation.",
    "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed",
)
OTHERS = "view asset photo dslr highly detailed realistic rendering shaded background plain standing left right"


def bytes_as_letters() -> list[str]:
    """Byte -> printable character, as GPT-2's and CLIP's files write them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def words_of_world() -> list[str]:
    groups = (world.VOCABULARY, world.FILLERS, DIRECTIONS, NEGATIVES, world.BREAKS, (OTHERS,))
    return sorted({word for group in groups for text in group for word in re.findall("[a-z]+", text.lower())})


def merges_of(words: list[str]) -> list[tuple[str, str]]:
    """Merges of the most frequent neighbours (ties by name) until nothing is left to merge.

    Encoding does the same merges in the same order, so every one of these words comes out whole.
    """
    pieces = {word: [*word[:-1], word[-1] + LAST] for word in words}
    found: list[tuple[str, str]] = []
    while pairs := Counter(pair for split in pieces.values() for pair in itertools.pairwise(split)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found.append(best)
        pieces = {word: merged(split, best) for word, split in pieces.items()}
    return found


def merged(split: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in split:
        if out and (out[-1], piece) == pair and not out[-1].endswith(LAST):
            out[-1] += piece
        else:
            out.append(piece)
    return out


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt, tokenizer_config.json, special_tokens_map.json."""
    merges = merges_of(words_of_world())
    letters = sorted(bytes_as_letters())
    tokens = [*letters, *(letter + LAST for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    special = {"content": END, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    first = special | {"content": START}
    config = {
        "add_prefix_space": False,
        "bos_token": {"__type": "AddedToken"} | first,
        "do_lower_case": True,
        "eos_token": {"__type": "AddedToken"} | special,
        "errors": "replace",
        "model_max_length": WORDS,
        "pad_token": END,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": {"__type": "AddedToken"} | special,
    }
    files = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(
            {"bos_token": first, "eos_token": special, "pad_token": END, "unk_token": special}, indent=2
        )
        + "\n",
    }
    with disk_errors("writing the tokenizer", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_atomic(folder / name, text.encode())


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder))
