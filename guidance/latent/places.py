# SPDX-License-Identifier: Apache-2.0
"""From what a recipe calls a model to something that can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dreamlab.core.errors import ModelError, RecipeError
from dreamlab.core.files import Json
from guidance.latent import lora_files
from guidance.latent.joint import ConvertedFolder, is_converted
from guidance.latent.loading import INDEX, ModelFolder
from guidance.latent.single_file import single

if TYPE_CHECKING:
    from guidance.latent.model import ModelSettings


def opened(settings: ModelSettings, family: str, default: str, kinds: Sequence[str]) -> ModelFolder:
    """A model by its name in the registry, by the path of its folder, or by the path of one file of `kinds`; with the
    LoRA that the settings name."""
    from dreamlab.hub import located

    s = settings
    place = located(s.model or default, family)
    if place.is_file():
        named = str(located(s.tokenizer)) if s.tokenizer else ""
        source: ModelFolder = single(
            place, kinds, legacy=s.legacy, ema=s.ema, prediction=s.prediction, tokens=named
        )  # fmt: skip
    elif (place / INDEX).is_file():
        source = ModelFolder(place, s.legacy)
        source = ConvertedFolder(place, s.legacy) if is_converted(source) else source
    else:
        raise ModelError(f"{place}: no {INDEX}; give the folder of a whole model, as diffusers writes it, or one file")
    if s.lora_scales and len(s.lora_scales) != len(s.lora):
        raise RecipeError(f"lora_scales: {len(s.lora_scales)} of them for {len(s.lora)} LoRA files")
    for name, scale in zip(s.lora, s.lora_scales or (1.0,) * len(s.lora), strict=True):
        source = merged(source, located(name, "lora"), s.legacy, scale)
    return source


def merged(source: ModelFolder, path: Path, legacy: str, scale: float) -> ModelFolder:
    """A model with one LoRA file."""
    file = lora_files.read(path, legacy == path.name)
    for part in file.parts:
        if not source.has(part):
            said = f"has layers of a {part}, and {source.path} has none; a LoRA for another base model?"
            raise ModelError(f"{file.path}: {said}")
    return Merged(source.path, source.legacy, source=source, file=file, scale=scale)


@dataclass(frozen=True)
class Merged(ModelFolder):
    """A model whose networks are read with a LoRA in their weights."""

    source: ModelFolder = field(kw_only=True)
    file: lora_files.LoraFile = field(kw_only=True)
    scale: float = field(kw_only=True)

    @property
    def inner(self) -> ModelFolder:
        return self.source.inner

    def has(self, part: str) -> bool:
        return self.source.has(part)

    def index(self) -> Mapping[str, Json]:
        return self.source.index()

    def config(self, part: str) -> Mapping[str, Json]:
        return self.source.config(part)

    def network(self, part: str, kinds: Sequence[str], dtype: torch.dtype) -> nn.Module:
        return self._merged(part, self.source.network(part, kinds, dtype))

    def encoder(self, part: str, kind: str, dtype: torch.dtype) -> nn.Module:
        return self._merged(part, self.source.encoder(part, kind, dtype))

    def tokenizer(self, part: str, kind: str) -> Any:
        return self.source.tokenizer(part, kind)

    def _merged(self, part: str, net: nn.Module) -> nn.Module:
        if part in self.file.parts:
            own = replace(self.file, parts={part: self.file.parts[part]})
            lora_files.merge({part: net}, own, self.scale, keep=False)
        return net


def network(model: str, family: str, kinds: Sequence[str], dtype: torch.dtype, legacy: str = "") -> Any:
    """A single network that is a folder of its own, as control networks and tiny autoencoders are."""
    from dreamlab.hub import located

    place = located(model, family)
    return ModelFolder(place.parent, legacy).network(place.name, kinds, dtype)
