# SPDX-License-Identifier: Apache-2.0
"""Tokenizers small enough to write by hand and real enough that the libraries' own classes read them.

They spell: no merge is known, so a word is its letters. At full size the rest of the vocabulary is filled with names
that no text contains, which puts begin and end of text at the ids (49406, 49407) that pooling and tests rely on.
"""

from __future__ import annotations

import json
from pathlib import Path

from guidance.layouts.common import TINY_PIECES
from guidance.layouts.parts import Size, Tokens

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE in CLIP's order: "!" is 0 (its padding in Stable Diffusion 2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(hidden))]


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_clip(folder: Path, tokens: Tokens, size: Size) -> None:
    """vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json, as in every CLIP repository."""
    symbols = byte_symbols()
    words = symbols + [symbol + "</w>" for symbol in symbols]
    if size == "full":
        words += [f"unused{place}" for place in range(tokens.entries - 2 - len(words))]
    vocabulary = {word: place for place, word in enumerate([*words, BEGIN, END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {"bos_token": {"content": BEGIN} | plain, "eos_token": {"content": END} | plain}
    special["unk_token"] = {"content": END} | plain
    config: dict[str, object] = {name: {"__type": "AddedToken"} | value for name, value in special.items()}
    told: dict[str, object] = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": tokens.length,
    }
    # 2.1 and SDXL's second say <|endoftext|> here and "!" in the map, which wins
    told |= {"pad_token": END, "tokenizer_class": "CLIPTokenizer"}
    _dump(folder / "tokenizer_config.json", config | told)
    _dump(folder / "special_tokens_map.json", special | {"pad_token": tokens.pad})


def write_t5(folder: Path, tokens: Tokens, size: Size) -> None:
    """tokenizer.json (Unigram), tokenizer_config.json and special_tokens_map.json; letters are its pieces."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)] + [(letter, -3.0) for letter in letters]
    count = tokens.entries if size == "full" else TINY_PIECES
    pieces += [(f"<unused{place}>", -20.0) for place in range(count - len(pieces))]
    made = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=tokens.length)
    made.save_pretrained(folder)
    _dump(folder / "special_tokens_map.json", {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})


def write_tokenizer(folder: Path, tokens: Tokens, size: Size) -> None:
    """One tokenizer's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    {"CLIPTokenizer": write_clip, "T5Tokenizer": write_t5, "T5TokenizerFast": write_t5}[tokens.kind](
        folder, tokens, size
    )
