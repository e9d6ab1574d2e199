# SPDX-License-Identifier: Apache-2.0
"""Contact sheets of a training: rows of pictures with their captions above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.files import write_atomic
from dreamlab.toybox.training.sample import _png
from dreamlab.toybox.training.sd.scenes import SIDES


def rows_of(*pictures: Tensor) -> Tensor:
    """[K, N, S, S, 3] in [0, 1]: of each group all given versions side by side, from [4 K, 3, S, S] in [-1, 1]."""
    each = [(p.float() / 2 + 0.5).permute(0, 2, 3, 1).unflatten(0, (-1, SIDES)) for p in pictures]
    return torch.cat(each, 1)


def write_sheet(path: Path, tiles: Tensor, texts: Sequence[str], title: str = "") -> None:
    columns = max(1, 16 // tiles.shape[1])
    write_atomic(path, _png(tiles, texts, title, columns=columns))
