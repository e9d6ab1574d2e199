# SPDX-License-Identifier: Apache-2.0
"""`dreamlab list guidance` says of every family what its weights cost, who may use them and whether they are here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dreamlab.core.errors import ModelError
from dreamlab.hub.reading import read
from dreamlab.hub.registry import packaged
from guidance import GUIDANCE
from tests.conftest import Commands

WITHOUT = {"oracle", "picture", "truth"}


def test_every_family_says_licence_size_and_reach(dreamlab: Commands, tmp_path: Path) -> None:
    ended = dreamlab("list", "guidance", DREAMLAB_MODELS=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert ended.code == 0, ended.err
    lines = {line.split()[0]: line for line in ended.out.splitlines()}
    assert set(lines) == set(GUIDANCE)
    for name, line in lines.items():
        if name in WITHOUT:
            assert line.endswith("; no weights]")
        elif name == "toybox-student":
            assert "; weights: Apache-2.0, 314 kB, shipped]" in line
        elif name.startswith("toybox"):
            assert line.endswith("; weights: Apache-2.0, 11.4 MB, shipped]") or "11.5 MB, shipped]" in line
        else:
            assert "; weights: " in line and ("by prefetch" in line or "gated" in line), line
    assert "CreativeML OpenRAIL-M or" in lines["sd"] and "sd-turbo gated" in lines["sd"] and "sd15" in lines["sd"]


def test_what_a_guidance_is_made_of_unless_told_otherwise_is_in_the_registry() -> None:
    """By that name, and as a model of the family that the guidance asks for."""
    known, count = read(packaged()), 0
    for kind in GUIDANCE:
        entry = GUIDANCE[kind]
        for model, family in entry.card(entry.Settings()).models:
            assert family in known.find(model).families, (kind, model, family)
            count += 1
    assert count >= 12


def test_every_guidance_with_weights_has_models() -> None:
    """Some families are no guidance of their own and used beside one: adapters, LoRA, tiny autoencoders, estimators."""
    known = read(packaged())
    for name in set(GUIDANCE) - WITHOUT:
        assert known.of_family(name), name


def test_a_model_within_another_is_made_once_and_answers_to_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """toybox-sd is in toybox-mv: a Stable Diffusion beside the user's models, its other tensors the file's."""
    from safetensors.torch import load_file

    from dreamlab.hub import located, places, reachable

    monkeypatch.setenv(places.MODELS, str(tmp_path))
    assert reachable("toybox-sd") == "shipped" and not list(tmp_path.iterdir())
    folder = located("toybox-sd", "sd")
    assert folder.parent == tmp_path and located("toybox-sd") == folder
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    unet = "unet/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(folder / unet), load_file(places.SHIPPED / "toybox-mv" / unet)
    changed = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
    assert changed == {"time_embedding.linear_2.bias"}
    assert all(name.startswith("class_embedding.") for name in theirs.keys() - ours.keys())
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (folder / vae).read_bytes() == (places.SHIPPED / "toybox-mv" / vae).read_bytes()
    with pytest.raises(ModelError, match="is for guidance sd"):
        located("toybox-sd", "mvdream")
