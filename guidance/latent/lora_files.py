# SPDX-License-Identifier: Apache-2.0
"""LoRA files of others, merged into the weights: W += scale * alpha / rank * up @ down (Hu et al. 2021, LoRA,
arXiv:2106.09685), for linear layers and convolutions.

Three ways of naming are read: kohya's (`lora_unet_down_blocks_0_..._to_q.lora_down.weight`, also with the old names of
SDXL's blocks), peft's (`unet.<path>.lora_A.weight`, `base_model.model.<path>...`, or the path alone) and diffusers' old
ones (`unet.<path>.processor.to_q_lora.down.weight`). Every entry finds its layer or the file is refused: a library that
drops what it does not know leaves a model that is not the one asked for. Merged weights need no peft, cost nothing a
call, and are what a compiled network sees.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from dreamlab.core.files import Json, write_atomic
from guidance.latent import ldm_names
from guidance.latent.tensor_files import PICKLES, opened

KOHYA = {"unet": "unet", "te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
PARTS = ("unet", "text_encoder", "text_encoder_2")
ENDS = {
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid", "alpha": "alpha",
    "lora_A.weight": "down", "lora_B.weight": "up", "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_A.default.weight": "down", "lora_B.default.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
}  # fmt: skip
OLD = re.compile(r"^(.+?)(\.processor)?\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight$")
OLD_UNET, OLD_TEXT = {"to_out": "to_out.0"}, {f"to_{x}": f"{x}_proj" for x in ("q", "k", "v", "out")}
SHOWN = 3


@dataclass(frozen=True)
class Addition:
    """What one layer gets: up @ (mid) @ down, times alpha / rank (alpha = rank where a file has none)."""

    down: Tensor  # [rank, in] or [rank, in, k, k]
    up: Tensor  # [out, rank] or [out, rank, 1, 1]
    mid: Tensor | None = None  # [rank, rank, k, k], between two 1x1 convolutions
    alpha: float | None = None

    def delta(self, shape: torch.Size) -> Tensor:
        """Its share of a weight of this shape, float32."""
        down, up, rank = self.down.float(), self.up.float(), self.down.shape[0]
        ratio = 1.0 if self.alpha is None else self.alpha / rank
        if self.mid is not None:
            joint = torch.einsum("or,rshw,si->oihw", up.flatten(1), self.mid.float(), down.flatten(1))
        else:
            joint = up.flatten(1) @ down.flatten(1)
        return ratio * joint.reshape(shape)

    def fits(self, shape: torch.Size) -> bool:
        ranks = {self.down.shape[0], self.up.shape[1]} | (set() if self.mid is None else set(self.mid.shape[:2]))
        inner = self.down[0].numel() * (1 if self.mid is None else self.mid[0, 0].numel())
        return len(ranks) == 1 and self.up.shape[0] == shape[0] and inner == shape.numel() // shape[0]


@dataclass(frozen=True)
class LoraFile:
    """A file's additions: for each part, by the layer as the file calls it."""

    path: Path
    parts: Mapping[str, Mapping[str, Addition]]

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


@dataclass(frozen=True)
class Applied:
    """How many layers of each part were changed, and how to change them back exactly."""

    counts: Mapping[str, int]
    before: tuple[tuple[nn.Parameter, Tensor], ...]

    @torch.no_grad()
    def undo(self) -> None:
        for weight, kept in self.before:
            weight.copy_(kept)


def read(path: Path, allow_pickle: bool = False) -> LoraFile:
    """The additions of a file; ModelError names what is no part of a LoRA."""
    file = opened(path, allow_pickle)
    tensors = file.read(list(file.shapes))
    said = {} if path.suffix in PICKLES else _metadata(path)
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    strange = []
    for name, value in tensors.items():
        entry = _entry(name)
        if entry is None:
            strange.append(name)
        else:
            part, layer, end = entry
            found.setdefault((part, layer), {})[end] = value
    lacking = [
        f"{layer} lacks its {end}" for (_, layer), got in found.items() for end in ("down", "up") if end not in got
    ]
    if strange or lacking or not found:
        known = f"{len(strange)} tensors are none of a LoRA's ({', '.join(strange[:SHOWN])})" if strange else ""
        why = known or "; ".join(lacking[:SHOWN]) or "it holds nothing"
        raise ModelError(f"{path}: is no LoRA that can be read here: {why}; LoHa, LoKr and DoRA are not read")
    parts: dict[str, dict[str, Addition]] = {}
    for (part, layer), got in found.items():
        alpha = float(got["alpha"]) if "alpha" in got else _alpha(said, part, layer)
        parts.setdefault(part, {})[layer] = Addition(got["down"], got["up"], got.get("mid"), alpha)
    return LoraFile(path, parts)


def _metadata(path: Path) -> Json:
    """What newer diffusers wrote beside the tensors: peft's configuration of each part."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        said: Json = json.loads(text)
        if any(said.get(f"{part}.use_rslora") for part in PARTS):
            raise ModelError(f"{path}: is scaled by the rank's root (rsLoRA), which is not read here")
        return said
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path}: its lora_adapter_metadata is damaged ({error})") from None


def _alpha(said: Json, part: str, layer: str) -> float | None:
    for ending, value in (said.get(f"{part}.alpha_pattern") or {}).items():
        if f"_{layer}".endswith(f"_{ending.replace('.', '_')}"):
            return float(value)
    alpha = said.get(f"{part}.lora_alpha")
    return None if alpha is None else float(alpha)


def _entry(name: str) -> tuple[str, str, str] | None:
    """Part, layer and which tensor of it; the layer of kohya's names is with underscores."""
    if old := OLD.match(name):
        layer = (OLD_UNET if old[2] else OLD_TEXT).get(old[3], old[3])
        return *_parted(f"{old[1]}.{layer}"), old[4]
    for end, what in ENDS.items():
        if name.endswith(f".{end}"):
            stem = name.removesuffix(f".{end}")
            if kohya := re.fullmatch(r"lora_(unet|te|te1|te2)_(\w+)", stem):
                return KOHYA[kohya[1]], kohya[2], what
            return *_parted(stem), what
    return None


def _parted(path: str) -> tuple[str, str]:
    """A path's part (the U-Net where none is named) and the rest, with underscores: one name for one layer."""
    path = path.removeprefix("base_model.model.")
    part, _, rest = path.partition(".")
    part, rest = (part, rest) if part in PARTS else ("unet", path)
    return part, rest.removeprefix("base_model.model.").replace(".", "_")


def merge(nets: Mapping[str, nn.Module], file: LoraFile, scale: float = 1.0, keep: bool = True) -> Applied:
    """Add a file to networks (`unet`, `text_encoder`, `text_encoder_2`), all of it or none; `keep` what stood there."""
    planned: list[tuple[nn.Parameter, Addition]] = []
    counts, faults = {}, []
    for part, additions in file.parts.items():
        if part not in nets:
            faults.append(f"{len(additions)} layers of a {part}, which this model has not")
            continue
        layers = aliases(nets[part])
        for name, addition in additions.items():
            weight = layers.get(name)
            if weight is None:
                faults.append(f"{name} is no layer of the {part}")
            elif not addition.fits(weight.shape):
                sizes = f"{list(addition.up.shape)} @ {list(addition.down.shape)}"
                faults.append(f"{name}: {sizes} does not fit {list(weight.shape)}")
            else:
                planned.append((weight, addition))
        counts[part] = len(additions)
    if faults or not planned:
        raise ModelError(
            f"{file.path}: {len(faults)} of its {len(file)} entries do not fit the model ({'; '.join(faults[:SHOWN])}"
            f"{'; ...' if len(faults) > SHOWN else ''}); is it a LoRA for another base model?"
        )
    before = tuple((weight, weight.detach().clone()) for weight, _ in planned) if keep else ()
    with torch.no_grad():
        for weight, addition in planned:
            weight.copy_(weight.float() + scale * addition.delta(weight.shape).to(weight.device))
    return Applied(counts, before)


def aliases(net: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that a LoRA may add to, under every name with underscores by which files call their layer; newer
    classes of transformers have lost the `text_model` that files speak of."""
    found: dict[str, nn.Parameter] = {}
    layers = {name: module for name, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    old = _old_names(layers)
    for name, module in layers.items():
        bare = name.removeprefix("text_model.")
        for alias in (name, bare, f"text_model.{bare}", *old(name)):
            found[alias.replace(".", "_")] = cast(nn.Parameter, module.weight)
    return found


def _old_names(layers: Iterable[str]) -> Callable[[str], list[str]]:
    """The names of the original repositories for a U-Net's layers; kohya's SDXL files use them."""
    names = list(layers)
    places = [m for name in names if (m := re.match(r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", name))]
    if not places:
        return lambda name: []
    down, up = ({(m[2], m[3]) for m in places if m[1] == side} for side in ("down", "up"))
    each = 1 + len({place for _, place in down})
    levels = len({block for block, _ in down})
    blocks = [f"input_blocks.{k}.0." for k in range(levels * each)] + [f"output_blocks.{k}.0." for k in range(len(up))]
    modules = ldm_names.modules(blocks, each - 1)
    inner = {new: old for old, new in ldm_names.RESNET.items()}

    def olds(name: str) -> list[str]:
        found = []
        for old, new in modules.items():
            if name == new or name.startswith(f"{new}."):
                rest = name.removeprefix(new).removeprefix(".")
                rest = inner.get(rest, rest) if ".resnets." in new else rest
                found.append(f"{old}.{rest}" if rest else old)
        return found

    return olds


def exported(params: Mapping[str, Tensor], path: Path, part: str = "unet", style: str = "peft") -> None:
    """Write additions of ours (guidance/shared/lora.py: `<layer>.down`, `<layer>.up`, no alpha) as other programs read
    them: alpha is the rank, for ours adds up @ down unscaled."""
    from safetensors.torch import save

    made: dict[str, Tensor] = {}
    for name in sorted(name.removesuffix(".down") for name in params if name.endswith(".down")):
        down, up = (params[f"{name}.{end}"].detach().to("cpu").contiguous() for end in ("down", "up"))
        if style == "kohya":
            head = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}[part]
            stem = f"{head}_{name.replace('.', '_')}"
            made |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
            made[f"{stem}.alpha"] = torch.tensor(float(down.shape[0]))
        else:
            made |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
    write_atomic(path, save(made, {"format": "pt"}))  # without alphas of its own, peft's alpha is the rank too
