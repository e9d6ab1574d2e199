# SPDX-License-Identifier: Apache-2.0
"""Texts by T5 and UMT5 encoders, each family with its own habits.

                                 length         mask given to T5    behind the text
DeepFloyd IF                     77             yes                 as encoded
SD3, FLUX.1, CogVideoX           256, 512, 226  no                  as encoded
Wan (UMT5)                       512            yes                 zeros
LTX                              128            yes                 as encoded; its mask goes to the network too

The tokenizer is read from tokenizer.json, or from the sentencepiece model alone that half of the repositories hold; the
libraries read the latter only with a package that nothing else needs.
"""

from __future__ import annotations

import html
import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dreamlab.core.errors import ModelError
from guidance.latent.loading import ModelFolder, library, quiet
from guidance.latent.text import Rows

PIECES = "spiece.model"
MOST_PIECES = 1 << 25  # bytes of a sentencepiece model; UMT5's has 4.5 MB


class T5Text:
    """One T5 encoder whose last hidden state is the text [K, length, D], with the mask of its tokens [K, length]."""

    def __init__(
        self,
        folder: ModelFolder,
        dtype: torch.dtype,
        device: torch.device,
        length: int,
        *,
        masked: bool,  # attention does not reach behind the text
        cut: bool = False,  # nothing is left behind the text
        clean: Callable[[str], str] = str,
        kind: str = "T5EncoderModel",
        parts: tuple[str, str] = ("tokenizer", "text_encoder"),
    ) -> None:
        self.tokenizer = t5_tokenizer(folder, parts[0])
        self.net = folder.encoder(parts[1], kind, dtype).to(device)
        self.length, self.masked, self.cut, self.clean = length, masked, cut, clean

    def __call__(self, texts: Sequence[str]) -> Rows:
        said = self.tokenizer(
            [self.clean(text) for text in texts], padding="max_length", max_length=self.length, truncation=True,
            return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        device = next(self.net.parameters()).device
        ids, mask = said.input_ids.to(device), said.attention_mask.to(device)
        text = self.net(ids, attention_mask=mask if self.masked else None).last_hidden_state
        return {"text": text * mask[..., None].to(text.dtype) if self.cut else text, "mask": mask}


def tidy(text: str) -> str:
    """As Wan's own code words a prompt: HTML's names for characters undone (twice), one space for many."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


# ---- the tokenizer ---------------------------------------------------------------------------------------------------
def t5_tokenizer(folder: ModelFolder, part: str) -> Any:
    """T5's tokenizer, whichever of its two files is there."""
    place = folder.path / part
    if (place / "tokenizer.json").is_file() or not (place / PIECES).is_file():
        return folder.tokenizer(part, "T5Tokenizer")
    pieces, charsmap = sentencepieces(place / PIECES)
    told = place / "tokenizer_config.json"
    config = json.loads(told.read_text("utf-8")) if told.is_file() else {}
    with quiet():
        return library("transformers").T5Tokenizer(
            vocab=pieces, _spm_precompiled_charsmap=charsmap, extra_ids=int(config.get("extra_ids", 100))
        )


def sentencepieces(path: Path) -> tuple[list[tuple[str, float]], bytes | None]:
    """Pieces and their scores of a sentencepiece model, and its table of normalised characters, if it has one."""
    if path.stat().st_size > MOST_PIECES:
        raise ModelError(f"{path}: {path.stat().st_size} bytes, which is no sentencepiece model")
    pieces, charsmap = list[tuple[str, float]](), b""
    try:
        for number, value in fields(path.read_bytes()):
            if number == 1 and isinstance(value, bytes):
                piece = dict(fields(value))
                text, score = piece[1], piece.get(2, 0.0)
                assert isinstance(text, bytes) and isinstance(score, float)
                pieces.append((text.decode("utf-8"), score))
            elif number == 3 and isinstance(value, bytes):
                found = dict(fields(value)).get(2, b"")
                charsmap = found if isinstance(found, bytes) else b""
    except (AssertionError, IndexError, KeyError, UnicodeDecodeError, ValueError, struct.error) as error:
        raise ModelError(f"{path}: is no sentencepiece model ({type(error).__name__}: {error})") from None
    if [text for text, _ in pieces[:3]] != ["<pad>", "</s>", "<unk>"]:
        raise ModelError(f"{path}: does not begin with T5's <pad>, </s>, <unk>")
    return pieces, charsmap or None


def fields(data: bytes) -> Iterator[tuple[int, bytes | int | float]]:
    """The fields of a protocol buffer: numbers, 32-bit floats, and bytes, in which others may be nested."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at)
            yield number, value
        elif wire == 2:
            length, at = varint(data, at)
            if at + length > len(data):
                raise ValueError("it ends in the middle")
            yield number, data[at : at + length]
            at += length
        elif wire in (1, 5):
            size, form = (8, "<d") if wire == 1 else (4, "<f")
            yield number, struct.unpack_from(form, data, at)[0]
            at += size
        else:
            raise ValueError(f"a field of wire type {wire}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
