# SPDX-License-Identifier: Apache-2.0
"""The library's pipelines run on the tiny folders, and their denoisers are called with the shapes of the real ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

# said, because diffusers takes folders of before 0.9 for mistaken about a sample_size below 64
SMALL = {"height": 64, "width": 64, "num_inference_steps": 2}


def pipeline(folder: Path, **changes: Any) -> Any:
    """The pipeline that model_index.json names, read as a user would."""
    import json

    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    made = getattr(importlib.import_module("diffusers"), kind).from_pretrained(
        folder, local_files_only=True, use_safetensors=True, **changes
    )
    made.set_progress_bar_config(disable=True)
    return made


@contextmanager
def spied(net: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """The arguments of every call of a network, by name."""
    import inspect

    calls: list[dict[str, Any]] = []
    inner = net.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(inspect.signature(inner).bind(*args, **kwargs).arguments)
        return inner(*args, **kwargs)

    net.forward = forward  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        net.forward = inner  # type: ignore[method-assign]


def shapes(call: dict[str, Any], *names: str) -> list[tuple[int, ...]]:
    return [tuple(call[name].shape) for name in names]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", ["sd15", "sd21", "sd21v"])
def test_stable_diffusion_runs_from_its_folder(name: str, random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder(name), safety_checker=None)
    with spied(pipe.unet) as calls:
        made = pipe("a red mushroom", **SMALL, output_type="pt", generator=torch.manual_seed(0)).images
    assert made.shape == (1, 3, 64, 64)
    assert torch.isfinite(made).all()
    assert shapes(calls[0], "sample", "encoder_hidden_states") == [(2, 4, 8, 8), (2, 77, 32)]
    assert pipe.scheduler.config.prediction_type == ("v_prediction" if name == "sd21v" else "epsilon")


def test_sdxl_runs_from_its_folder(random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder("sdxl"))
    with spied(pipe.unet) as calls:
        pipe("a red mushroom", **SMALL, output_type="latent")
    added = calls[0]["added_cond_kwargs"]
    assert shapes(calls[0], "sample", "encoder_hidden_states") == [(2, 4, 8, 8), (2, 77, 64)]
    assert shapes(added, "text_embeds", "time_ids") == [(2, 32), (2, 6)]
    assert not calls[0]["encoder_hidden_states"][0].any(), "force_zeros_for_empty_prompt was not read"


def test_the_full_stable_diffusion_pipeline_loads_as_published(random_folder: Callable[..., Path]) -> None:
    """Safety checker and the feature extractor of a vanished class included."""
    pipe = pipeline(random_folder("sd15"))
    assert type(pipe.safety_checker).__name__ == "StableDiffusionSafetyChecker"
    assert type(pipe.feature_extractor).__name__.startswith("CLIPImageProcessor")
