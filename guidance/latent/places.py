# SPDX-License-Identifier: Apache-2.0
"""From what a recipe calls a model to something that can be read: a folder, or one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dreamlab.core.errors import ModelError
from guidance.latent.joint import ConvertedFolder, is_converted
from guidance.latent.loading import INDEX, ModelFolder, ModelSource
from guidance.latent.single_file import single


def opened(
    model: str, family: str, legacy: str = "", kinds: tuple[str, ...] = (), prediction: str = "", ema: bool = False
) -> ModelSource:
    """A model by its name in the registry, or by the path of its folder, or of a single file of one of `kinds`."""
    from dreamlab.hub import located

    place = located(model, family)
    if place.is_file():
        if not kinds:
            raise ModelError(f"{place}: {family} is not read from a single file; give the folder of a whole model")
        return single(place, kinds, legacy=legacy, prediction=prediction, ema=ema)
    if not (place / INDEX).is_file():
        raise ModelError(f"{place}: no {INDEX}; give the folder of a whole model, as diffusers writes it")
    folder = ModelFolder(place, legacy)
    return ConvertedFolder(place, legacy) if is_converted(folder) else folder


def network(model: str, family: str, kinds: Sequence[str], dtype: torch.dtype) -> Any:
    """A single network that is a folder of its own, as control networks and tiny autoencoders are."""
    from dreamlab.hub import located

    place = located(model, family)
    return ModelFolder(place.parent).network(place.name, kinds, dtype)
