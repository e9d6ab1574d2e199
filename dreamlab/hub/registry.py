# SPDX-License-Identifier: Apache-2.0
"""The registry of models, `configs/models.toml`: what each is called, whose it is, which files it has and what is known
of them. What is not known there is not known here."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dreamlab.core.errors import ModelError
from dreamlab.core.text import did_you_mean, nearest, short

COMMERCIAL = ("yes", "limit", "no", "unclear")  # limit: below a revenue, or after a registration
WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2}  # bytes a number takes
UNKNOWN = "unknown"
SURE = ("known", "about", "at most", UNKNOWN)  # bytes: as listed; parameters by width; width open, float32 taken; not
PICKLES = (".bin", ".ckpt", ".pth", ".pt")
SUFFIXES = (".safetensors", ".json", ".txt", ".model", *PICKLES)
MOST_SHARDS = 64
REGISTRY = "DREAMLAB_REGISTRY"


@dataclass(frozen=True)
class WeightFile:
    """A file of weights, or the files that one was split into."""

    path: str  # within the repository; of a split one as if it were whole
    variant: str = ""  # fp16: the half as large one beside it
    type: str = ""  # of its numbers; "": not known
    params: int = 0  # numbers in it that are no integers; 0: not known
    bytes: int = 0  # 0: not known
    sha256: str = ""  # "": not known; `models verify` records it at first use
    shards: int = 1  # 0: not known, one or several

    @property
    def pickle(self) -> bool:
        return self.path.endswith(PICKLES)

    @property
    def slot(self) -> str:
        """What it is the weights of: files of one slot stand for each other."""
        return self.path.replace(f".{self.variant}.", ".", 1) if self.variant else self.path

    @property
    def index(self) -> str:
        """The file that says into which shards it was split: of a variant, `model.safetensors.index.fp16.json`."""
        if self.variant and self.slot != self.path:
            return f"{self.slot}.index.{self.variant}.json"
        return f"{self.path}.index.json"

    def shard(self, number: int, count: int) -> str:
        stem, suffix = self.path.rsplit(".", 1)
        return f"{stem}-{number:05d}-of-{count:05d}.{suffix}"

    @property
    def size(self) -> tuple[int, str]:
        """Bytes, and how well they are known: one of SURE."""
        if self.bytes:
            return self.bytes, SURE[0]
        if self.params:
            return self.params * WIDTHS.get(self.type, 4), SURE[1] if self.type else SURE[2]
        return 0, SURE[3]


@dataclass(frozen=True)
class HubModel:
    """One entry."""

    name: str
    families: tuple[str, ...]  # guidances that take it, the main one first
    layout: str  # of its folder or file, one of guidance.layouts; "": none of those
    repo: str  # owner/name on the Hub, or an https address; "": it comes with the package
    mirrors: tuple[str, ...]
    revision: str
    licence: str
    commercial: str
    gated: bool
    base: str  # another entry that it is used with
    within: str  # another entry, which comes with the package and holds it (`dreamlab.hub.within`)
    small: tuple[str, ...]  # configurations, tokenizers
    maybe: tuple[str, ...]  # small files that some copies lack, and that can be done without
    weights: tuple[WeightFile, ...]

    @property
    def shipped(self) -> bool:
        return not self.repo

    @property
    def alone(self) -> bool:
        """It is one file, and no folder is needed around it."""
        return not self.small and len(self.weights) == 1

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(sorted({weight.variant for weight in self.weights} - {""}))

    def chosen(self, variant: str = "") -> tuple[WeightFile, ...]:
        """One file of weights a slot: of the variant where there is one, else the plain one."""
        slots: dict[str, list[WeightFile]] = {}
        for weight in self.weights:
            slots.setdefault(weight.slot, []).append(weight)
        return tuple(
            next((w for w in each if w.variant == variant), next((w for w in each if not w.variant), each[0]))
            for each in slots.values()
        )

    def size(self, variant: str = "") -> tuple[int, str]:
        """Bytes of its weights, and how well they are known."""
        sizes = [weight.size for weight in self.chosen(variant)]
        return sum(size for size, _ in sizes), max((sure for _, sure in sizes), key=SURE.index)


@dataclass(frozen=True)
class Registry:
    """All of them."""

    models: Mapping[str, HubModel]
    classes: Mapping[str, tuple[str, ...]]  # of a family: what its folders call themselves (`_class_name`)
    estimators: frozenset[str]  # families that look at pictures, and that no prior stands in for

    def find(self, name: str) -> HubModel:
        if name in self.models:
            return self.models[name]
        likely = did_you_mean(name, self.models) if nearest(name, self.models) else "; see: dreamlab models ls"
        raise ModelError(f"model {short(name)!r} is not in the registry{likely}; of your own: model: PATH")

    def of_family(self, family: str) -> tuple[HubModel, ...]:
        return tuple(model for model in self.models.values() if family in model.families)


@functools.cache
def registry() -> Registry:
    """The package's own, or the one that DREAMLAB_REGISTRY names; read when somebody asks."""
    from dreamlab.hub.reading import read

    return read(Path(given) if (given := os.environ.get(REGISTRY)) else packaged())


def packaged() -> Path:
    return Path(str(resources.files("configs") / "models.toml"))
