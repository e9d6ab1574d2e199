# SPDX-License-Identifier: Apache-2.0
"""From what a recipe calls a model to something that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dreamlab.core.errors import ModelError
from guidance.latent.loading import INDEX, ModelFolder


def opened(model: str, legacy: str = "") -> ModelFolder:
    """A model by its name in the registry, or by the path of its folder."""
    from dreamlab.hub import located

    place = located(model)
    if place.is_dir():
        if not (place / INDEX).is_file():
            raise ModelError(f"{place}: no {INDEX}; give the folder of a whole model, as diffusers writes it")
        return ModelFolder(place, legacy)
    raise ModelError(f"{place}: is no folder")


def network(model: str, kinds: Sequence[str], dtype: torch.dtype) -> Any:
    """A single network that is a folder of its own, as control networks and tiny autoencoders are."""
    from dreamlab.hub import located

    place = Path(located(model))
    return ModelFolder(place.parent).network(place.name, kinds, dtype)
