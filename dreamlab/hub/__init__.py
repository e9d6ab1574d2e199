# SPDX-License-Identifier: Apache-2.0
"""Where pretrained models lie on this machine."""

from __future__ import annotations

from pathlib import Path

from dreamlab.core.errors import ModelError


def located(model: str, family: str | None = None) -> Path:
    """The folder or file of a model that is here; nothing is downloaded."""
    place = Path(model).expanduser()
    if place.exists():
        return place.absolute()
    raise ModelError(f"{model}: no such folder or file")
