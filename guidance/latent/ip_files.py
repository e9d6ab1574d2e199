# SPDX-License-Identifier: Apache-2.0
"""IP-Adapter files (Ye et al. 2023, arXiv:2308.06721): a picture as a second set of words. Every cross-attention gets
keys and values of the picture's tokens beside the text's: attn(q, k, v) + scale attn(q, k_ip, v_ip).

A file numbers the attentions in the order of the U-Net's processors, down, up, and the middle last; only the odd ones
are of the text. A number that is missing, one too many, or of another base model's width is one error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from guidance.latent import ldm_names
from guidance.latent.file_kinds import recognise
from guidance.latent.loading import first_line, quiet
from guidance.latent.tensor_files import opened

BASE, PLUS, FULL = (
    "base",
    "plus",
    "full",
)  # one embedding; a resampler of all the encoder's tokens; each token by itself
CROSS = "attn2.processor"
SHOWN = 3


@dataclass(frozen=True)
class IpFile:
    """The net that makes tokens of a picture, and keys and values by number: `1.to_k_ip.weight`."""

    where: str
    projection: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        return kind_of(self.projection, self.where)

    @property
    def width(self) -> int:
        """Of the encoder's numbers that it reads: 1024 of ViT-H's embedding, 1280 of its tokens or ViT-bigG's."""
        names = {BASE: "proj.weight", PLUS: "proj_in.weight", FULL: "proj.0.weight"}
        return self.projection[names[self.kind]].shape[1]


def kind_of(projection: Mapping[str, Tensor], where: str) -> str:
    for name, kind in (("proj.weight", BASE), ("latents", PLUS), ("proj.3.weight", FULL)):
        if name in projection:
            return kind
    raise ModelError(f"{where}: none of IP-Adapter's base, plus and full-face; those of Face ID need another encoder")


def read(path: Path, allow_pickle: bool = False) -> IpFile:
    """A file of IP-Adapter: .safetensors of flat names, or where the user says so the .bin of two groups."""
    file = opened(path, allow_pickle)
    strange = [name for name in file.shapes if not name.startswith(("image_proj.", "ip_adapter."))]
    if strange or recognise(file.shapes) != "ip-adapter":
        said = f"{len(strange)} of its {len(file.shapes)} tensors are of something else"
        raise ModelError(f"{path}: is no IP-Adapter: {said} ({', '.join(strange[:SHOWN])}); give one of h94/IP-Adapter")
    state = file.read(list(file.shapes))
    found = IpFile(str(path), ldm_names.under(state, "image_proj."), ldm_names.under(state, "ip_adapter."))
    kind_of(found.projection, found.where)
    return found


def numbered(net: nn.Module, heads: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Keys and values by the name of their attention (ImageDream's) -> by the number that files use."""
    numbers = {name.removesuffix(".processor"): number for number, name in _crossings(net).items()}
    found = {}
    for name, value in heads.items():
        attention, _, rest = name.partition(".to_")
        if attention not in numbers:
            raise ModelError(f"{where}: {name} belongs to no cross-attention of the U-Net; get the file again")
        found[f"{numbers[attention]}.to_{rest}"] = value
    return found


def attach(net: nn.Module, file: IpFile, scale: float = 1.0) -> nn.Module:
    """The U-Net with the adapter inside, frozen; from then on every call needs `image_embeds`. Nothing is left out: all
    numbers and shapes are checked before diffusers' own loader sees them."""
    layers = dict(net.named_modules())
    wanted: dict[str, tuple[int, ...]] = {}
    for number, name in _crossings(net).items():
        keys = layers[f"{name.removesuffix('.processor')}.to_k"].weight
        wanted |= {f"{number}.to_{part}_ip.weight": tuple(keys.shape) for part in "kv"}
    ldm_names.check({name: tuple(value.shape) for name, value in file.heads.items()}, wanted, file.where)
    state = {"image_proj": dict(file.projection), "ip_adapter": dict(file.heads)}
    try:
        with quiet():
            net._load_ip_adapter_weights([state], low_cpu_mem_usage=False)  # type: ignore[operator]
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"{file.where}: its image_proj is not whole ({first_line(error)}); get it again") from None
    for processor in net.attn_processors.values():  # type: ignore[operator]
        if isinstance(processor, nn.Module):
            processor.scale = [scale]  # type: ignore[assignment]
    return net.requires_grad_(False).eval()


def with_pictures(
    net: nn.Module, projection: Mapping[str, Tensor], named: Mapping[str, Tensor], where: str
) -> nn.Module:
    """ImageDream's U-Net: its resampler is that of an IP-Adapter-Plus, its keys and values stand by name."""
    dtype = next(net.parameters()).dtype
    heads = numbered(net, named, where)
    return attach(net, IpFile(where, projection, heads)).to(dtype)


def _crossings(net: nn.Module) -> dict[int, str]:
    """The processors of the text's attention by their number among all, in the U-Net's own order."""
    names = list(net.attn_processors)  # type: ignore[arg-type]
    return {number: name for number, name in enumerate(names) if name.endswith(CROSS)}


@torch.no_grad()
def embeds(encoder: nn.Module, kind: str, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What `image_embeds` is for pictures [B, 3, h, w] as the encoder takes them, and for no picture: [B, 1, D] and
    zeros for the base, [B, 1, tokens, D] and those of an all-zero picture for the others (not zeros: they were trained
    so). The last layer but one is read, without the norm behind the last."""
    if kind == BASE:
        found: Tensor = encoder(pixels).image_embeds[:, None]
        return found, torch.zeros_like(found)
    both = torch.cat([pixels, torch.zeros_like(pixels)])
    seen, null = encoder(both, output_hidden_states=True).hidden_states[-2][:, None].chunk(2)
    return seen, null
