# SPDX-License-Identifier: Apache-2.0
"""Networks on the meta device: what a file must hold (names, shapes, types), and how much that is, at no memory."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidance.layouts import LAYOUTS
from guidance.layouts.parts import Network, Size

if TYPE_CHECKING:
    from torch import nn

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int64": 8}


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return self.count * BYTES[self.dtype]

    @property
    def count(self) -> int:
        total = 1
        for length in self.shape:
            total *= length
        return total


@dataclass(frozen=True)
class Described:
    """What a network weighs."""

    parameters: int
    buffers: int  # numbers of its state dict that are no parameters
    keys: int  # of its state dict
    file_bytes: int  # as written at the published type, without the header


INNER = {  # classes that the top of diffusers does not have
    "IFSafetyChecker": "diffusers.pipelines.deepfloyd_if",
    "IFWatermarker": "diffusers.pipelines.deepfloyd_if",
    "StableDiffusionSafetyChecker": "diffusers.pipelines.stable_diffusion.safety_checker",
}


def _class(part: Network) -> Any:
    """The class of a part; its name comes from our tables alone."""
    return getattr(importlib.import_module(INNER.get(part.kind, part.library)), part.kind)


def construct(part: Network, size: Size, device: str = "meta") -> nn.Module:
    """The network of a part with whatever weights its class begins with; on `meta` with none."""
    import torch

    kind, config = _class(part), dict(part.config(size))
    with torch.device(device):
        if part.library == "transformers":
            made: nn.Module = kind(kind.config_class(**config))
        else:
            made = kind.from_config(config)
    return made.eval()


def tied(net: nn.Module) -> set[str]:
    """Second names of parameters (T5's embedding of the encoder, a language model's head): no file holds them."""
    every = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in net.named_parameters()}


def in_file(part: Network, net: nn.Module, dtype: str) -> dict[str, FileTensor]:
    """Names, shapes and types as the published file has them; `dtype` is that of the floating-point ones."""
    found: dict[str, FileTensor] = {}
    here, there = part.renamed
    if part.position_ids:
        found[f"{there}embeddings.position_ids"] = FileTensor((1, part.position_ids), "int64")
    twice = tied(net)
    for name, value in net.state_dict().items():
        if name not in twice:
            kept = dtype if value.is_floating_point() else "int64"
            found[there + name.removeprefix(here) if name.startswith(here) else name] = FileTensor(
                tuple(value.shape), kept
            )
    return found


@functools.cache
def _described(layout: str, folder: str, size: Size) -> Described:
    part = LAYOUTS[layout].part(folder)
    net = construct(part, size)
    parameters = sum(value.numel() for value in net.parameters())
    state = net.state_dict()
    total = sum(value.numel() for value in state.values()) - sum(state[name].numel() for name in tied(net))
    written = sum(spec.bytes for spec in in_file(part, net, part.dtype).values())
    return Described(parameters, total - parameters, len(state), written)


def describe(layout: str, folder: str, size: Size = "full") -> Described:
    """Parameters, keys and bytes of one network of a layout, counted without building it in memory."""
    return _described(layout, folder, size)
