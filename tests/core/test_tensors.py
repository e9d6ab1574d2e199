# SPDX-License-Identifier: Apache-2.0
"""Files of tensors with a JSON header: against the safetensors library itself, and what is said of a bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from dreamlab.core.errors import ModelError
from dreamlab.core.tensors import Header, network, packed, unpacked

TENSORS = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([1.5]).half()}  # one is not contiguous


def kept(path: Path, **header: object) -> Path:
    path.write_bytes(packed(TENSORS, "net", {"format": 3, **header}))
    return path


def test_the_library_reads_what_was_packed_and_equal_headers_give_equal_bytes(tmp_path: Path) -> None:
    path = kept(tmp_path / "x.safetensors", words=["é", 1])
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["net"]) == {"format": 3, "words": ["é", 1]}
        for name, value in TENSORS.items():
            assert torch.equal(file.get_tensor(name), value)
    assert packed(TENSORS, "net", {"b": 1, "a": 2}) == packed(TENSORS, "net", {"a": 2, "b": 1})
    header, tensors = unpacked(path, "net")
    assert header["words"] == ["é", 1] and tensors["b"].dtype == torch.float16


def test_a_network_is_built_from_float32(tmp_path: Path) -> None:
    def build(header: Header, state: dict[str, Tensor]) -> tuple[str, torch.dtype]:
        return header["name"], state["b"].dtype

    assert network(kept(tmp_path / "x", name="n"), "net", 3, "again", build) == ("n", torch.float32)


def test_what_is_wrong_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    def fussy(header: Header, state: dict[str, Tensor]) -> int:
        if header["name"] == "shapes":
            torch.nn.Linear(2, 2).load_state_dict(state)  # RuntimeError of several lines
        return len(header["name"]) + int(header["count"])

    good = kept(tmp_path / "good", name="n", count="1").read_bytes()
    cases = {
        "absent": (None, "there is no net here"),
        "empty": (b"", "not a readable net"),
        "cut": (good[:-3], "not a readable net"),
        "text": (b"hello" * 100, "not a readable net"),
        "bare": (save({"a": torch.ones(1)}), "not a readable net"),  # a safetensors file without our header
        "json": (save({"a": torch.ones(1)}, {"net": "{"}), "not a readable net"),
        "version": (packed(TENSORS, "net", {"format": 4}), "format 4, this version reads 3"),
        "key": (packed(TENSORS, "net", {"format": 3, "name": "n"}), "not a readable net"),
        "kind": (packed(TENSORS, "net", {"format": 3, "name": 7, "count": "1"}), "not a readable net"),
        "value": (packed(TENSORS, "net", {"format": 3, "name": "n", "count": "one"}), "not a readable net"),
        "shapes": (packed(TENSORS, "net", {"format": 3, "name": "shapes", "count": "1"}), "not a readable net"),
    }
    for name, (data, said) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ModelError) as caught:
            network(path, "net", 3, "train it again", fussy)
        told = str(caught.value)
        assert said in told and str(path) in told and told.endswith("; train it again") and "\n" not in told, name
