# SPDX-License-Identifier: Apache-2.0
"""Folders of real architectures, tiny and with random weights, written once in a session and read by every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guidance.layouts.parts import Size

RandomFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> RandomFolder:
    """`random_folder("sd15")` is the folder of that layout at size tiny; do not write into it, copy it first."""
    made: dict[tuple[str, Size, int], Path] = {}

    def folder(name: str, size: Size = "tiny", seed: int = 0) -> Path:
        from guidance.layouts.random import write_random

        key = (name, size, seed)
        if key not in made:
            made[key] = write_random(name, size, tmp_path_factory.mktemp(f"{name}-{size}-{seed}"), seed)
        return made[key]

    return folder
