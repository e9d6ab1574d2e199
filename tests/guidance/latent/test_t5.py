# SPDX-License-Identifier: Apache-2.0
"""T5 texts: against the library's encoder used straight, and the tokenizer's two files against each other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dreamlab.core.errors import ModelError
from guidance.latent.loading import ModelFolder
from guidance.latent.t5 import T5Text, sentencepieces, t5_tokenizer, tidy
from guidance.layouts.parts import Tokens
from guidance.layouts.tokens import write_tokenizer

TEXTS = ["a red mushroom", "", "a duck"]
LENGTH = 24


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> ModelFolder:
    return ModelFolder(random_folder("if1m"))


def said(folder: ModelFolder, masked: bool, cut: bool = False, length: int = LENGTH) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        encoder = T5Text(folder, torch.float32, torch.device("cpu"), length, masked=masked, cut=cut)
        return dict(encoder(TEXTS))


def straight(folder: ModelFolder, text: str) -> torch.Tensor:
    """One text without any padding, by the library's class from the same folder."""
    from transformers import T5EncoderModel

    net = T5EncoderModel.from_pretrained(str(folder.path / "text_encoder"), dtype=torch.float32).eval()
    with torch.no_grad():
        hidden: torch.Tensor = net(torch.tensor([spelt(text)])).last_hidden_state
    return hidden


def spelt(text: str) -> list[int]:
    """Ids by hand: the tiny vocabulary is <pad> </s> <unk> and a space, then the letters from "!" on."""
    words = [[3, *(ord(letter) - 33 + 4 for letter in word)] for word in text.split()]
    return [id for word in words for id in word] + [1]


def test_ids_are_spelt_by_hand(folder: ModelFolder) -> None:
    ids = t5_tokenizer(folder, "tokenizer")(TEXTS).input_ids
    assert ids == [spelt(text) for text in TEXTS]


def test_a_masked_text_does_not_feel_its_padding_and_an_unmasked_one_does(folder: ModelFolder) -> None:
    masked, plain = said(folder, True), said(folder, False)
    for i, text in enumerate(TEXTS):
        own = straight(folder, text)[0]
        torch.testing.assert_close(masked["text"][i, : len(own)], own, rtol=1e-4, atol=1e-5)
        assert (plain["text"][i, : len(own)] - own).abs().max() > 1e-2
        assert int(masked["mask"][i].sum()) == len(own)
    assert masked["text"].shape == (3, LENGTH, 32)


def test_behind_a_text_that_is_cut_are_zeros_and_before_it_what_was_encoded(folder: ModelFolder) -> None:
    masked, cut = said(folder, True), said(folder, True, cut=True)
    inside = masked["mask"].bool()
    assert torch.equal(cut["text"][inside], masked["text"][inside])
    assert (cut["text"][~inside] == 0).all() and (masked["text"][~inside].abs().amax(-1) > 1e-3).all()


def test_a_long_text_ends_with_the_end(folder: ModelFolder) -> None:
    assert said(folder, True, length=6)["text"].shape == (3, 6, 32)
    tokenizer = t5_tokenizer(folder, "tokenizer")
    assert tokenizer("a red mushroom", max_length=6, truncation=True).input_ids == [*spelt("a red mushroom")[:5], 1]


def test_both_files_of_a_tokenizer_say_the_same(tmp_path: Path) -> None:
    texts = ["A red mushroom, 50% <off>", "  two   spaces ", "naïve ☂"]
    ids = []
    for kind in ("T5Tokenizer", "T5TokenizerFast"):
        write_tokenizer(tmp_path / kind, Tokens("tokenizer", kind, 77), "tiny")  # type: ignore[arg-type]
        ids.append(t5_tokenizer(ModelFolder(tmp_path), kind)(texts).input_ids)
    assert not (tmp_path / "T5Tokenizer/tokenizer.json").exists()
    assert ids[0] == ids[1] and all(line[-1] == 1 for line in ids[0])


def test_a_file_that_is_no_sentencepiece_model_is_one_line(folder: ModelFolder, tmp_path: Path) -> None:
    whole = (folder.path / "tokenizer/spiece.model").read_bytes()
    for data in (whole[: len(whole) // 2], b"\xff" * 40, b"", whole[40:]):
        (tmp_path / "spiece.model").write_bytes(data)
        with pytest.raises(ModelError, match=r"spiece.model: (is no sentencepiece|does not begin)") as caught:
            sentencepieces(tmp_path / "spiece.model")
        assert "\n" not in str(caught.value)
    copy = ModelFolder(Path(shutil.copytree(folder.path, tmp_path / "model")))
    shutil.rmtree(copy.path / "tokenizer")
    with pytest.raises(ModelError, match="tokenizer: no such folder"):
        t5_tokenizer(copy, "tokenizer")


def test_a_model_s_own_table_of_characters_is_found(folder: ModelFolder, tmp_path: Path) -> None:
    """Field 2 of field 3; here by hand, after all that the tiny model says."""
    whole, table = (folder.path / "tokenizer/spiece.model").read_bytes(), bytes(range(200))
    inner = b"\x12" + bytes([len(table) & 127 | 128, len(table) >> 7]) + table
    (tmp_path / "spiece.model").write_bytes(whole + b"\x1a" + bytes([len(inner) & 127 | 128, len(inner) >> 7]) + inner)
    pieces, found = sentencepieces(tmp_path / "spiece.model")
    assert found == table and pieces == sentencepieces(folder.path / "tokenizer/spiece.model")[0]


def test_prompts_are_tidied() -> None:
    assert tidy("  a &amp;lt;red&gt;\n  mushroom ") == "a <red> mushroom"
