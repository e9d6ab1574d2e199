# SPDX-License-Identifier: Apache-2.0
"""Folders with random weights in the layout that users have: for tests, for preflight, for timing.

Nothing is zero that training would have filled: biases, the zero convolutions of a ControlNet, the last layers that
begin as nothing. Tensors go to the file one after the other, so a folder of any size needs the memory of its largest.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dreamlab.core.errors import DiskError, ModelError
from dreamlab.core.files import disk_errors
from guidance.layouts import LAYOUTS
from guidance.layouts.build import FileTensor, construct, in_file
from guidance.layouts.parts import WEIGHTS, Config, Layout, Network, Size
from guidance.layouts.tokens import write_tokenizer
from guidance.layouts.whole import in_whole

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1_048_573  # a prime: rows of any length begin elsewhere in the repeated block
TORCH = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int64": "I64"}


class Dice:
    """Normal numbers from one block, repeated; a tensor's place in it comes from its name."""

    def __init__(self, seed: int) -> None:
        import torch

        self.seed = seed
        self.block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed))

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Unit variance; another name, another stretch."""
        import torch

        count = math.prod(shape)
        begin = zlib.crc32(f"{self.seed}/{name}".encode()) % BLOCK
        turned = torch.cat([self.block[begin:], self.block[:begin]]) if count > BLOCK - begin else self.block[begin:]
        return turned.repeat(-(-count // len(turned)))[:count].reshape(shape)

    def tensor(self, name: str, spec: FileTensor) -> Tensor:
        """What a trained tensor of this name might be: variance kept by products, norms near one, nothing zero."""
        import torch

        last = name.rpartition(".")[2]
        if last == "position_ids":
            return torch.arange(spec.count).reshape(spec.shape)
        if spec.dtype == "int64":
            return torch.zeros(spec.shape, dtype=torch.int64)
        if last == "pe":
            return _places(spec.shape)
        noise = self.normal(name, spec.shape)
        if last == "running_var":
            return 1.0 + 0.1 * noise.abs()
        if last == "gamma" or (last == "weight" and len(spec.shape) == 1):
            return 1.0 + 0.1 * noise
        if last == "bias" or len(spec.shape) < 2:
            return 0.1 * noise
        return noise / math.sqrt(math.prod(spec.shape[1:]))


def _places(shape: tuple[int, ...]) -> Tensor:
    """Sines and cosines of places [1, L, D], as motion modules add them: a loader may make them anew."""
    import torch

    _, length, width = shape
    speed = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(length)[:, None] * speed
    return torch.stack([angle.sin(), angle.cos()], -1).reshape(shape)


def header(specs: Mapping[str, FileTensor]) -> bytes:
    """What a safetensors file begins with: the length of a JSON object, and the object, to a multiple of eight."""
    told: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, spec in specs.items():
        told[name] = {"dtype": NAMES[spec.dtype], "shape": spec.shape, "data_offsets": [at, at + spec.bytes]}
        at += spec.bytes
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_tensors(path: Path, specs: Mapping[str, FileTensor], dice: Dice) -> None:
    """One safetensors file, tensor by tensor."""
    import torch

    with disk_errors("writing", path), path.open("wb") as file:
        file.write(header(specs))
        for name, spec in specs.items():
            value = dice.tensor(name, spec).to(getattr(torch, TORCH.get(spec.dtype, spec.dtype)))
            file.write(value.reshape(-1).view(torch.uint8).numpy().data)


def _shards(specs: Mapping[str, FileTensor], count: int) -> Iterator[dict[str, FileTensor]]:
    """The tensors in their order, in exactly so many files of about equal size."""
    waiting, rest = len(specs), sum(spec.bytes for spec in specs.values())
    shard: dict[str, FileTensor] = {}
    filled = 0
    for name, spec in specs.items():
        shard[name] = spec
        filled, waiting = filled + spec.bytes, waiting - 1
        if count > 1 and (filled * count >= rest or waiting < count):
            yield shard
            rest, count, filled, shard = rest - filled, count - 1, 0, {}
    yield shard


def write_weights(
    folder: Path, network: Network, specs: Mapping[str, FileTensor], dice: Dice, variant: str = ""
) -> None:
    """Its weights in one file, or in shards with their index; `variant` is "fp16" for a second set."""
    stem = WEIGHTS[network.library]
    dotted = f".{variant}" if variant else ""
    if network.shards == 1:
        write_tensors(folder / f"{stem}{dotted}.safetensors", specs, dice)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(specs, network.shards), 1):
        name = f"{stem}{dotted}-{number:05d}-of-{network.shards:05d}.safetensors"
        write_tensors(folder / name, shard, dice)
        places |= dict.fromkeys(shard, name)
    total = sum(spec.bytes for spec in specs.values())
    _dump(folder / f"{stem}.safetensors.index{dotted}.json", {"metadata": {"total_size": total}, "weight_map": places})


def _dump(path: Path, value: object) -> None:
    with disk_errors("writing", path):
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_config(folder: Path, network: Network, size: Size, dtype: str) -> None:
    """config.json as the published one: the class in the words of its library.

    transformers loads in the type that is said here, whatever the file holds.
    """
    if network.library == "diffusers":
        head: dict[str, object] = {"_class_name": network.listed()[1], "_diffusers_version": network.version}
    else:
        head = {"architectures": [network.kind], "torch_dtype": TORCH[dtype], "transformers_version": network.version}
    _dump(folder / "config.json", head | network.stated(size))


def write_part(folder: Path, network: Network, size: Size, dtype: str, dice: Dice, variant: str = "") -> None:
    """One network's folder."""
    with disk_errors("making a folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, network, size, dtype)
    write_weights(folder, network, in_file(network, construct(network, size), dtype, size), dice, variant)


def _write_picture(folder: Path, kind: str, crop: int, way: Config) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    named = {"feature_extractor_type": kind} if kind.endswith("FeatureExtractor") else {"image_processor_type": kind}
    config = {
        "crop_size": crop,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_resize": True,
    }
    _dump(
        folder / "preprocessor_config.json",
        config | named | {"image_mean": mean, "image_std": std, "resample": 3, "size": crop} | way,
    )


def model_index(layout: Layout, without: tuple[str, ...] = ()) -> dict[str, object]:
    """The parts by folder, [library, class], as the pipeline reads them."""
    found: dict[str, object] = {network.folder: network.listed() for network in layout.parts}
    found |= {tokens.folder: ["transformers", tokens.kind] for tokens in layout.tokens}
    found |= {folder: ["transformers", kind] for folder, kind in layout.pictures.items()}
    if layout.scheduler:
        found["scheduler"] = ["diffusers", layout.scheduler["_class_name"]]
    found |= layout.index
    head = {"_class_name": layout.pipeline, "_diffusers_version": layout.version}
    return head | {name: found[name] for name in sorted(found)}


def layout_of(name: str) -> Layout:
    """A layout by its short name; ModelError lists them."""
    if name not in LAYOUTS:
        raise ModelError(f"{name}: no such layout; there are {', '.join(sorted(LAYOUTS))}")
    return LAYOUTS[name]


def write_random(
    which: str | Layout,
    size: Size,
    out: Path,
    seed: int = 0,
    dtype: str = "",
    variant: str = "",
    without: tuple[str, ...] = (),
) -> Path:
    """The folder of a layout, by name or one that need not be published, with random weights, at `out`, which may be
    there if it is empty; of one that is a single file that file, in it.

    `dtype` (fp32, fp16, bf16) is fp32 at tiny and fp16 at full size if not said; `without` leaves out networks that
    users delete. What was begun and failed stays where it is: the message says why.
    """
    layout = layout_of(which) if isinstance(which, str) else which
    kept = dtype or ("fp16" if size == "full" else "fp32")
    if kept not in TORCH:
        raise ModelError(f"{layout.name}: dtype {dtype!r} is none of fp32, fp16, bf16")
    if out.exists() and any(out.iterdir()):
        raise DiskError(f"{out}: not empty; choose another --out")
    dice = Dice(seed)
    with disk_errors("making a folder", out):
        out.mkdir(parents=True, exist_ok=True)
    if layout.file:
        write_tensors(out / layout.file, in_whole(layout, size, kept), dice)
        return out / layout.file
    for network in layout.parts:
        if network.folder not in without:
            write_part(out / network.folder, network, size, kept, dice, variant)
    for tokens in layout.tokens:
        write_tokenizer(out / tokens.folder, tokens, size)
    for folder, kind in layout.pictures.items():
        _write_picture(out / folder, kind, layout.crop, layout.ways.get(folder, {}))
    if layout.scheduler:
        (out / "scheduler").mkdir(exist_ok=True)
        head = {"_class_name": layout.scheduler["_class_name"], "_diffusers_version": layout.version}
        _dump(out / "scheduler" / "scheduler_config.json", head | dict(layout.scheduler))
    if layout.pipeline:
        _dump(out / "model_index.json", model_index(layout))
    return out
