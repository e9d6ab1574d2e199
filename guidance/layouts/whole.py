# SPDX-License-Identifier: Apache-2.0
"""What the one file of a layout holds: the tensors of its parts under the names of the file, counted on `meta`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from guidance.layouts.build import FileTensor, construct
from guidance.layouts.original import as_vae, as_visual, video_unet_name
from guidance.layouts.parts import Config, Layout, Size

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]
LEVELS = 4  # of the autoencoder
NAMED: Mapping[str, tuple[str, Callable[[State, Config], Iterable[tuple[str, Tensor]]]]] = {
    "unet": (
        "model.diffusion_model.",
        lambda state, config: ((video_unet_name(name, config), value) for name, value in state.items()),
    ),
    "vae": ("conditioner.embedders.1.encoder.", lambda state, config: as_vae(state, LEVELS)),
    "image_encoder": ("conditioner.embedders.0.open_clip.model.visual.", lambda state, config: as_visual(state)),
}


def original(layout: Layout, folder: str, state: State, size: Size) -> dict[str, Tensor]:
    """A part's tensors, of diffusers' or transformers' names, as its layout's file has them."""
    prefix, named = NAMED[folder]
    return {f"{prefix}{name}": value for name, value in named(state, layout.part(folder).config(size))}


def in_whole(layout: Layout, size: Size, dtype: str) -> dict[str, FileTensor]:
    """Names, shapes and types of the file."""
    found: dict[str, FileTensor] = {}
    for part in layout.parts:
        state = construct(part, size).state_dict()
        made = original(layout, part.folder, state, size)
        found |= {name: FileTensor(tuple(value.shape), dtype) for name, value in made.items()}
    return found
