# SPDX-License-Identifier: Apache-2.0
"""A prior of a few thousand random weights that serves every role, in a folder."""

from __future__ import annotations

from pathlib import Path

import torch

from dreamlab.toybox.training.data import vocabulary
from dreamlab.toybox.training.roles import MOMENTS
from guidance.toybox.net import NetSettings, Prior
from guidance.toybox.store import EVERY, save
from guidance.toybox.told import HINT_CHANNELS, RAY_CHANNELS


def tiny_prior(folder: Path, size: int = 16, volume: int = 0) -> Path:
    """Layers that start at zero hold something, so that every input matters."""
    words = vocabulary()
    small = {"fine": 8, "wide": 16, "middle": 16, "core": 32, "blocks": 1, "words": 16, "word_blocks": 1}
    settings = NetSettings(
        len(words.tokens), size=size, hint=HINT_CHANNELS, moments=MOMENTS, rays=RAY_CHANNELS, volume=volume, **small
    )
    torch.manual_seed(0)
    net = Prior(settings)
    for parameter in net.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.05)
    save(folder, EVERY, "cosine", words, net, {})
    return folder
