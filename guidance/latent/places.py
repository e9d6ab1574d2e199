# SPDX-License-Identifier: Apache-2.0
"""From what a recipe calls a model to something that can be read: a folder, or one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamlab.core.errors import ModelError
from guidance.latent.loading import INDEX, ModelFolder, ModelSource
from guidance.latent.single_file import SingleFile
from guidance.latent.vocabulary import END, clip_tokenizer

OPEN_CLIP = ("sd2", "mvdream", "imagedream")  # whose texts are filled up with "!"


class FileModel:
    """A whole model in one file, under the original names, that is asked as a folder is."""

    def __init__(self, path: Path, wanted: tuple[str, ...], legacy: str, prediction: str) -> None:
        self.path, self.file = path, SingleFile(path, wanted, allow_pickle=path.name == legacy, prediction=prediction)

    def has(self, part: str) -> bool:
        return part.startswith("tokenizer") or self.file.has(part)

    def index(self) -> Mapping[str, Any]:
        return {}

    def config(self, part: str) -> Mapping[str, Any]:
        return self.file.config(part)

    def network(self, part: str, kinds: Sequence[str], dtype: torch.dtype) -> nn.Module:
        return self.file.network(part, dtype)

    def encoder(self, part: str, kind: str, dtype: torch.dtype) -> nn.Module:
        return self.file.network(part, dtype)

    def tokenizer(self, part: str, kind: str) -> Any:
        """The file has none; all of these kinds use CLIP's."""
        return clip_tokenizer("!" if self.file.kind in OPEN_CLIP or part.endswith("_2") else END)


def opened(model: str, family: str, legacy: str = "", kinds: tuple[str, ...] = (), prediction: str = "") -> ModelSource:
    """A model by its name in the registry, or by the path of its folder, or of a single file of one of `kinds`."""
    from dreamlab.hub import located

    place = located(model, family)
    if place.is_file():
        if not kinds:
            raise ModelError(f"{place}: {family} is not read from a single file; give the folder of a whole model")
        return FileModel(place, kinds, legacy, prediction)
    if not (place / INDEX).is_file():
        raise ModelError(f"{place}: no {INDEX}; give the folder of a whole model, as diffusers writes it")
    return ModelFolder(place, legacy)


def network(model: str, family: str, kinds: Sequence[str], dtype: torch.dtype) -> Any:
    """A single network that is a folder of its own, as control networks and tiny autoencoders are."""
    from dreamlab.hub import located

    place = located(model, family)
    return ModelFolder(place.parent).network(place.name, kinds, dtype)
