# SPDX-License-Identifier: Apache-2.0
"""CLIP's tokenizer from its merges, for models that come as one file."""

from __future__ import annotations

from guidance.latent.text import cut, ids_of
from guidance.latent.vocabulary import clip_tokenizer, letters


def test_known_ids() -> None:
    """Anchors of the published vocabulary."""
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49_408 and len(set(letters())) == 256
    (ids,) = ids_of(tokenizer, ["a red mushroom"]).tolist()
    assert ids == [49406, 320, 736, 13011] + [49407] * 73
    (ids,) = ids_of(clip_tokenizer("!"), ["A  RED mushroom"]).tolist()
    assert ids == [49406, 320, 736, 13011, 49407] + [0] * 72


def test_what_is_too_long_is_known() -> None:
    tokenizer = clip_tokenizer()
    long = " ".join(["red"] * 75 + ["mushroom"])
    assert cut(tokenizer, long) == "mushroom" and cut(tokenizer, "a red mushroom") == ""
    assert ids_of(tokenizer, [long])[0, -1] == 49407
