# SPDX-License-Identifier: Apache-2.0
"""Files held against what is known of them: hashes, and what safetensors say of themselves."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from dreamlab.hub.verify import Damaged, parameters
from tests.hub.conftest import TEXT, UNET, Models, one_line, safetensors
from tests.hub.test_places import whole


def test_numbers_are_counted_from_the_header(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16), "ids": torch.arange(77)[None]}
    save_file(tensors | {"scalar": torch.zeros(())}, path)
    assert parameters(path) == 15 + 7 + 1
    path.write_bytes(UNET)
    assert parameters(path) == 64 * 48 * 5 + 64
    path.write_bytes(TEXT)
    assert parameters(path) == 96 * 8


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (UNET[:-1], "truncated"),
        (UNET + b"0", "truncated, or written over"),
        (UNET[:5], "is no safetensors file"),
        (b"", "is no safetensors file"),
        (struct.pack("<Q", 1 << 40) + UNET[8:], "is no safetensors file"),
        (struct.pack("<Q", 4) + b"{]}}", "header that cannot be read"),
        (struct.pack("<Q", 2) + b"[]" + b"", "0"),
        (UNET.replace(b'"F32"', b'"F99"'), "header that cannot be read"),
        (UNET.replace(b"[64, 48, 5]", b"[64, 48, 6]"), "shapes do not fit"),
        (b"PK\x03\x04" + b"\0" * 100, "is no safetensors file"),
    ],
)
def test_what_is_no_whole_file_is_said(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    if said == "0":
        assert parameters(path) == 0
        return
    with pytest.raises(Damaged, match=said):
        parameters(path)


def test_what_nobody_knows_is_recorded_and_held_against_later(models: Models, place: Path) -> None:
    whole(place / "tiny")
    ended = models("verify")
    assert ended.code == 0 and ended.out == "ok    tiny: 3 against nothing yet: recorded now, 1 against the registry\n"
    known = json.loads((place / ".pins/tiny.json").read_text())["sha256"]
    assert set(known) == {"model_index.json", "unet/config.json", "text/model.safetensors"}
    assert models("verify", "tiny").out == "ok    tiny: 3 against first use, 1 against the registry\n"
    (place / "tiny/text/model.safetensors").write_bytes(TEXT[:-1] + b"\2")
    ended = models("verify")
    assert "1 files are not what they should be" in one_line(ended)
    assert "wrong tiny: text/model.safetensors sha256 is" in ended.out and "first use says" in ended.out
    (place / "tiny/text/model.safetensors").write_bytes(TEXT)
    (place / "tiny/unet/model.safetensors").write_bytes(UNET[:-1] + b"\2")
    ended = models("verify", "tiny")
    assert one_line(ended) and "the registry says" in ended.out


def test_another_architecture_and_half_a_file_need_no_hash(models: Models, place: Path) -> None:
    """Of a file that is seen for the first time."""
    whole(place / "tiny", "unet/model.fp16.safetensors")
    (place / "tiny/text/model.safetensors").write_bytes(safetensors({"embedding": ("F32", (96, 9))}))
    ended = models("verify", "tiny")
    assert one_line(ended) and "holds 864 parameters, its architecture has 768: another model" in ended.out
    (place / ".pins/tiny.json").unlink()
    (place / "tiny/text/model.safetensors").write_bytes(TEXT[:-100])
    ended = models("verify", "tiny")
    assert one_line(ended) and "text/model.safetensors has" in ended.out and "truncated" in ended.out


def test_what_is_not_here_cannot_be_verified(models: Models, place: Path) -> None:
    assert "dreamlab models prefetch tiny" in one_line(models("verify", "tiny"))
    assert "did you mean 'tiny'" in one_line(models("verify", "tinny"))
    ended = models("verify")
    assert ended.code == 0 and ended.out == ""
    whole(place / "tiny")
    (place / ".pins").mkdir()
    (place / ".pins/tiny.json").write_text("{")
    assert "is damaged; remove it" in one_line(models("verify", "tiny"))


def test_the_weights_of_the_package_are_those_of_the_registry(dreamlab: object) -> None:
    from tests.conftest import Commands

    assert isinstance(dreamlab, Commands)
    ended = dreamlab("models", "verify", "toybox", DREAMLAB_MODELS=str(dreamlab.folder))
    assert ended.code == 0 and ended.out == "ok    toybox: 3 against the registry\n"
    assert dreamlab("models", "path", "toybox").out.strip().endswith("guidance/weights/toybox")
    assert "there is nothing to fetch" in one_line(dreamlab("models", "prefetch", "toybox"))
