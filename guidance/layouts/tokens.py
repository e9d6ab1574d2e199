# SPDX-License-Identifier: Apache-2.0
"""Tokenizers small enough to write by hand and real enough that the libraries' own classes read them.

They spell: no merge is known, so a word is its letters. At full size the rest of the vocabulary is filled with names
that no text contains, which puts begin and end of text at the ids (49406, 49407) that pooling and tests rely on.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
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
        words += [f"unused{place}" for place in range((tokens.entries or 49408) - 2 - len(words))]
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


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _field(number: int, value: bytes | int | float) -> bytes:
    """One field of a protocol buffer: a varint, a 32-bit float, or bytes with their length."""
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def sentencepiece(pieces: list[tuple[str, float]]) -> bytes:
    """A sentencepiece model (ModelProto) of unigrams: <pad>, </s> and <unk> first, ids as in T5."""
    data = bytearray()
    for place, (text, score) in enumerate(pieces):
        kind = {0: 3, 1: 3, 2: 2}.get(place, 1)  # control, control, unknown, normal
        data += _field(1, _field(1, text.encode()) + _field(2, score) + _field(3, kind))
    none = (1 << 64) - 1  # -1: T5 has no begin
    trainer = _field(3, 1) + _field(40, 2) + _field(41, none) + _field(42, 1) + _field(43, 0)
    return bytes(data) + _field(2, trainer) + _field(3, _field(1, b"identity"))


def write_t5(folder: Path, tokens: Tokens, size: Size) -> None:
    """spiece.model, tokenizer_config.json and special_tokens_map.json, for the fast one also tokenizer.json."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)] + [(letter, -3.0) for letter in letters]
    count = (tokens.entries or 32000) if size == "full" else TINY_PIECES
    pieces += [(f"<unused{place}>", -20.0) for place in range(count - len(pieces))]
    if tokens.kind == "T5TokenizerFast":
        T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=tokens.length).save_pretrained(folder)
    (folder / "spiece.model").write_bytes(sentencepiece(pieces))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    told: dict[str, object] = {"extra_ids": 0, "model_max_length": tokens.length, "tokenizer_class": "T5Tokenizer"}
    _dump(folder / "tokenizer_config.json", told | special)
    _dump(folder / "special_tokens_map.json", special)


# what Qwen3's own template makes of one user's message, thinking on or off
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def write_qwen(folder: Path, tokens: Tokens, size: Size) -> None:
    """vocab.json, merges.txt, tokenizer.json and tokenizer_config.json with the template of a chat."""
    from transformers import Qwen2Tokenizer

    words = byte_symbols()
    if size == "full":
        words += [f"unused{place}" for place in range(151643 - len(words))]
    vocabulary = {word: place for place, word in enumerate([*words, *QWEN_SPECIAL])}
    made = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=tokens.length, chat_template=CHAT)
    made.add_special_tokens({"additional_special_tokens": list(QWEN_SPECIAL[1:3])})
    made.save_pretrained(folder, save_jinja_files=False)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


_WRITERS: Mapping[str, Callable[[Path, Tokens, Size], None]] = {
    "CLIPTokenizer": write_clip,
    "T5Tokenizer": write_t5,
    "T5TokenizerFast": write_t5,
    "Qwen2Tokenizer": write_qwen,
    "Qwen2TokenizerFast": write_qwen,
}


def write_tokenizer(folder: Path, tokens: Tokens, size: Size) -> None:
    """One tokenizer's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[tokens.kind](folder, tokens, size)
