# SPDX-License-Identifier: Apache-2.0
"""The prior on disk: a folder with config.json, vocab.json and model.safetensors (fp16), checked when it is read.

config.json holds the role, the network's settings, the noise table and the SHA-256 of the other two files, so that a
truncated or mixed-up folder is refused in one line instead of drawing noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamlab.core.errors import ModelError
from guidance.toybox.net import NetSettings, Prior
from guidance.toybox.words import Words

FORMAT = 3
EVERY = "every"  # the role of a prior that serves all of them
WEIGHTS, VOCABULARY, CONFIG = "model.safetensors", "vocab.json", "config.json"


@dataclass(frozen=True)
class Stored:
    """A prior as read from a folder."""

    role: str
    table: str  # noise table, by name
    words: Words
    net: Prior  # float32, on the host, frozen
    facts: Mapping[str, Any]  # what its training wrote down: images seen, ...
    digest: str = ""  # SHA-256 of its weights, if they are a file's


def save(folder: Path, role: str, table: str, words: Words, net: Prior, facts: Mapping[str, Any]) -> None:
    """Write the three files; equal weights give equal bytes."""
    from safetensors.torch import save as pack

    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in net.state_dict().items()}
    files = {WEIGHTS: pack(state, {"format": "pt"}), VOCABULARY: words.to_json().encode()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    settings = dataclasses.asdict(net.net)
    config = {"format": FORMAT, "role": role, "table": table, "net": settings, "sha256": digests, "facts": dict(facts)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


AGAIN = "reinstall dreamlab, or train it with `dreamlab toybox train`"


def words_of(folder: Path) -> Words:
    """The vocabulary alone: enough to say what a prompt asks for that the prior never heard of."""
    return Words.from_json(_files(folder)[VOCABULARY].read_text(encoding="utf-8"))


def longest_of(folder: Path) -> int:
    """Tokens of the longest caption, without its weights."""
    try:
        return int(json.loads(_files(folder)[CONFIG].read_text(encoding="utf-8"))["net"]["longest"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG} is damaged ({error!r}); {AGAIN}") from None


def _files(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in (CONFIG, VOCABULARY, WEIGHTS)}
    for name, path in files.items():
        if not path.is_file():
            raise ModelError(f"{folder}: no {name}, so there is no toybox prior here; {AGAIN}")
    return files


def load(folder: Path) -> Stored:
    """Read and check a folder; ModelError says in one line what is missing or damaged."""
    from safetensors.torch import load as unpack

    files = _files(folder)
    try:
        config = json.loads(files[CONFIG].read_text(encoding="utf-8"))
        found, net_settings, digests = config["format"], config["net"], config["sha256"]
        role, table, facts = config["role"], config["table"], config["facts"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{files[CONFIG]}: damaged ({error!r}); {AGAIN}") from None
    if found != FORMAT:
        raise ModelError(f"{files[CONFIG]}: format {found}, this version reads {FORMAT}; {AGAIN}")
    blobs = {name: files[name].read_bytes() for name in (VOCABULARY, WEIGHTS)}
    for name, blob in blobs.items():
        if hashlib.sha256(blob).hexdigest() != digests.get(name):
            raise ModelError(f"{files[name]}: its SHA-256 is not the one in {CONFIG}: damaged or mixed up; {AGAIN}")
    net = _network(net_settings, unpack(blobs[WEIGHTS]), files[WEIGHTS])
    return Stored(role, table, Words.from_json(blobs[VOCABULARY].decode()), net, facts, digests[WEIGHTS])


def _network(settings: Mapping[str, Any], state: Mapping[str, Tensor], where: Path) -> Prior:
    try:
        net = Prior(NetSettings(**settings))
        net.load_state_dict({name: value.float() for name, value in state.items()})
    except (TypeError, RuntimeError) as error:
        raise ModelError(f"{where}: does not fit its config.json ({str(error).splitlines()[0]})") from None
    return net.requires_grad_(False).eval()
