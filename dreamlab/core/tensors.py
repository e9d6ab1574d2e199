# SPDX-License-Identifier: Apache-2.0
"""Safetensors files of ours: tensors, and under one key of the header what they are, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from dreamlab.core import digests
from dreamlab.core.errors import ModelError

Header = Mapping[str, Any]  # JSON: what of it is there, its reader finds out
Built = TypeVar("Built")
FORMAT = "format"  # the entry of a header that says which version wrote it


def packed(tensors: Mapping[str, Tensor], key: str, header: Header) -> bytes:
    """The file's bytes; one key, for the order of several would be left to chance."""
    from safetensors.torch import save

    kept = {name: value.detach().contiguous() for name, value in tensors.items()}
    data: bytes = save(kept, {key: json.dumps(header, sort_keys=True)})
    return data


def unpacked(path: Path, key: str) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors; whatever is wrong with the file is an exception of its reader's."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = json.loads((file.metadata() or {})[key])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def network(
    path: Path, what: str, version: int, again: str, build: Callable[[Header, dict[str, Tensor]], Built]
) -> Built:
    """What `build` makes of a stored network's header and float32 weights; ModelError says in one line what is missing
    or damaged, and with `again` what to do."""
    from safetensors import SafetensorError

    if not path.is_file():
        raise ModelError(f"{path}: there is no {what} here; {again}")
    digests.check(path, again)
    try:
        header, tensors = unpacked(path, what)
        if header[FORMAT] != version:
            raise ModelError(f"{path}: format {header[FORMAT]}, this version reads {version}; {again}")
        return build(header, {name: value.float() for name, value in tensors.items()})
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path}: not a readable {what} ({str(error).splitlines()[0][:120]}); {again}") from None
