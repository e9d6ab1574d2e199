# SPDX-License-Identifier: Apache-2.0
"""A file of tensors, of which the header alone is read until a tensor is asked for: safetensors, or where the user
names the file as one to be trusted, a pickle, opened as plain tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamlab.core.errors import ModelError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
MOST_HEADER = 100_000_000  # bytes of a header, the format's own limit
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True)
class Tensors:
    """A file's tensors: their shapes on the meta device, and how to get them."""

    path: Path
    shapes: Mapping[str, Tensor]
    read: Callable[[list[str]], dict[str, Tensor]]

    def below(self, prefix: str) -> dict[str, Tensor]:
        return self.read([name for name in self.shapes if name.startswith(prefix)])


def opened(path: Path, allow_pickle: bool = False) -> Tensors:
    """A file of tensors, of which only the header is read; ModelError says in one line what is wrong with it."""
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; give the path of a .safetensors file, or a model's folder")
    if path.suffix.lower() in PICKLES:
        if not allow_pickle:
            raise ModelError(
                f"{path}: is a pickle, which is refused unless you name it as one you trust (legacy: {path.name}); "
                "a .safetensors of the same model needs no trust"
            )
        return _pickled(path)
    shapes = header(path)

    def read(names: list[str]) -> dict[str, Tensor]:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}

    return Tensors(path, shapes, read)


def header(path: Path) -> dict[str, Tensor]:
    """Names and shapes of a safetensors file, as meta tensors; its length is checked, its data not read."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MOST_HEADER, size - 8):
                raise ValueError("its header has no end")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        ends = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {
            name: torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]], device="meta")
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ModelError(f"{path}: not a safetensors file ({str(error)[:80]}); get it again") from None
    if size != 8 + length + ends:
        raise ModelError(f"{path}: {size} bytes where its header tells of {8 + length + ends}: cut short; get it again")
    return shapes


def _pickled(path: Path) -> Tensors:
    """Plain tensors alone: anything else in the pickle is an error. Old files without an archive cannot be mapped."""
    said: object = None
    for mapped in (True, False):
        try:
            said = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            break
        except RuntimeError as error:
            if not mapped or "mmap" not in str(error):
                raise ModelError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from None
        except Exception as error:  # a pickle fails in as many ways as there are pickles
            raise ModelError(
                f"{path}: holds more than tensors ({type(error).__name__}: {' '.join(str(error).split())[:120]}); "
                "convert it to .safetensors where you trust it"
            ) from None
    inner = said.get("state_dict", said) if isinstance(said, dict) else None
    if not isinstance(inner, dict):
        raise ModelError(f"{path}: holds a {type(said).__name__} and not named tensors")
    state = {str(name): value for name, value in _flat(inner) if isinstance(value, Tensor)}
    shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    return Tensors(path, shapes, lambda names: {name: state[name] for name in names})


def _flat(groups: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Groups of tensors (IP-Adapter) under flat names."""
    found: list[tuple[str, object]] = []
    for name, value in groups.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found
