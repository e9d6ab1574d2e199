# SPDX-License-Identifier: Apache-2.0
"""Every tiny folder is read by the library's own pipeline, offline, with nothing missing, extra or of another shape."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct
from guidance.layouts.parts import Network

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise OSError("the network is off")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(part: Network, folder: Path) -> tuple[Any, dict[str, Any]]:
    kind: Any = getattr(importlib.import_module(part.library), part.kind)
    loaded: tuple[Any, dict[str, Any]] = kind.from_pretrained(
        folder / part.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    return loaded


NETWORKS = [  # MultiViewUNetModel and CLIPCameraProjection are of no library; SV3D is one file, read in test_sv3d.py
    (name, network.folder)
    for name, layout in LAYOUTS.items()
    for network in layout.parts
    if network.needed and network.written is None and not layout.file and network.kind != "WanTransformer3DModel"
]
WAN = [name for name in LAYOUTS if name.startswith("wan")]


@pytest.mark.parametrize(("name", "folder"), NETWORKS)
def test_a_tiny_network_loads_with_nothing_missing_or_extra(
    name: str, folder: str, random_folder: Callable[..., Path]
) -> None:
    part = LAYOUTS[name].part(folder)
    _, info = load(part, random_folder(name))
    found = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
    assert found == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}


@pytest.mark.parametrize("name", WAN)
def test_the_shards_of_wan_hold_every_tensor(name: str, random_folder: Callable[..., Path]) -> None:
    """Its class keeps some layers in single precision, and from_pretrained wants accelerate for that (ValueError
    without): a plain load of every file of the index does not."""
    from safetensors.torch import load_file

    for folder in ("transformer", "transformer_2") if name.endswith("a14b") else ("transformer",):
        network, where = LAYOUTS[name].part(folder), random_folder(name) / folder
        index = json.loads((where / "diffusion_pytorch_model.safetensors.index.json").read_text())
        state = {}
        for file in sorted(set(index["weight_map"].values())):
            state |= load_file(where / file)
        assert len(set(index["weight_map"].values())) == network.shards
        assert index["metadata"]["total_size"] == sum(value.nbytes for value in state.values())
        found = construct(network, "tiny", "cpu").load_state_dict(state, strict=True)
        assert not found.missing_keys and not found.unexpected_keys
