# SPDX-License-Identifier: Apache-2.0
"""Networks on the meta device: what a file must hold (names, shapes, types), and how much that is, at no memory."""

from __future__ import annotations

import functools
import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidance.layouts import LAYOUTS
from guidance.layouts.original import resampler, unet_name
from guidance.layouts.parts import Config, Network, Size

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
        return math.prod(self.shape)


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


CAMERA = "CLIPCameraProjection"  # of no library


def _class(network: Network) -> Any:
    """The class of a network; its name comes from our tables alone."""
    return getattr(importlib.import_module(INNER.get(network.kind, network.library)), network.kind)


def _camera(config: Config) -> nn.Module:
    """Zero123's projection of picture and camera: one Linear layer under the name that its folder gives it."""
    from torch import nn

    width = int(str(config["embedding_dim"]))
    return nn.ModuleDict({str(config["name"]): nn.Linear(width + 4, width)})


def construct(network: Network, size: Size, device: str = "meta") -> nn.Module:
    """The network of a network with whatever weights its class begins with; on `meta` with none."""
    import torch

    config = network.config(size)
    kind = None if network.kind == CAMERA else _class(network)
    with torch.device(device):
        if kind is None:
            return _camera(config)
        if network.library == "transformers":
            made: nn.Module = kind(kind.config_class(**config))
        else:
            made = kind.from_config(config)
    return made.to(device).eval()  # a share that mixes frames is made on the host whatever is said


def tied(net: nn.Module) -> set[str]:
    """Second names of parameters (T5's embedding of the encoder, a language model's head): no file holds them."""
    every = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in net.named_parameters()}


def in_file(network: Network, net: nn.Module, dtype: str, size: Size) -> dict[str, FileTensor]:
    """Names, shapes and types as the published file has them; `dtype` is that of the floating-point ones."""
    found: dict[str, FileTensor] = {}
    here, there = network.renamed
    if network.position_ids:
        found[f"{there}embeddings.position_ids"] = FileTensor((1, network.position_ids), "int64")
    twice = tied(net)
    config = network.config(size)
    for name, value in net.state_dict().items():
        if name not in twice:
            written = there + name.removeprefix(here) if name.startswith(here) else name
            if network.original:
                written = unet_name(name, config)
            found[written] = FileTensor(tuple(value.shape), dtype if value.is_floating_point() else "int64")
    return found | {name: FileTensor(shape, dtype) for name, shape in _image(network, net, size).items()}


def _image(network: Network, net: nn.Module, size: Size) -> dict[str, tuple[int, ...]]:
    """What ImageDream adds: a resampler of the picture's tokens, and their key and value in every cross-attention."""
    width = network.image[size != "full"]
    if not width:
        return {}
    config = network.config(size)
    context = int(str(config["cross_attention_dim"]))
    found = resampler("image_embed.", width, context, context, 12 if size == "full" else 2)
    for name, value in net.state_dict().items():
        if name.endswith("attn2.to_k.weight"):
            stem = unet_name(name, config).removesuffix("to_k.weight")
            found |= {f"{stem}{which}.weight": tuple(value.shape) for which in ("to_k_ip", "to_v_ip")}
    return found


@functools.cache
def _described(layout: str, folder: str, size: Size) -> Described:
    network = LAYOUTS[layout].part(folder)
    net = construct(network, size)
    more = [math.prod(shape) for shape in _image(network, net, size).values()]
    parameters = sum(value.numel() for value in net.parameters())
    state = net.state_dict()
    total = sum(value.numel() for value in state.values()) - sum(state[name].numel() for name in tied(net))
    written = sum(tensor.bytes for tensor in in_file(network, net, network.dtype, size).values())
    return Described(parameters + sum(more), total - parameters, len(state) + len(more), written)


def describe(layout: str, folder: str, size: Size = "full") -> Described:
    """Parameters, keys and bytes of one network of a layout, counted without building it in memory."""
    return _described(layout, folder, size)
