# SPDX-License-Identifier: Apache-2.0
"""Where models lie: with the package, in our own folder of models, or in a Hugging Face cache that is already there."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dreamlab.core.errors import ModelError
from dreamlab.core.text import printable
from dreamlab.hub.registry import MOST_SHARDS, UNKNOWN, HubModel, Registry, WeightFile

SHIPPED = Path(__file__).parents[2] / "guidance" / "weights"
MODELS = "DREAMLAB_MODELS"
LARGEST_JSON = 64 << 20


@dataclass(frozen=True)
class Found:
    """The place that holds most of a model."""

    folder: Path  # that paths of the repository are relative to
    path: Path  # the folder; its file where it is one file
    where: str  # shipped, here, hub cache
    missing: tuple[str, ...]  # files it lacks; empty: it is whole

    @property
    def whole(self) -> bool:
        return not self.missing


def models_folder() -> Path:
    """$DREAMLAB_MODELS, else the user's cache."""
    if given := os.environ.get(MODELS):
        return Path(given).expanduser()
    return _cache() / "dreamlab" / "models"


def own(model: HubModel) -> Path:
    """Our own folder of a model, there or not."""
    return models_folder() / model.name


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it fetched."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(home).expanduser() if home else _cache() / "huggingface") / "hub"


def find(model: HubModel) -> Found | None:
    """The first place that holds the whole model, else the one that lacks least; None where nothing of it is."""
    found = []
    for folder, where in _candidates(model):
        lacks = tuple(missing(model, folder))
        if len(lacks) < len(model.small) + len(model.chosen()):
            found.append(Found(folder, folder / model.weights[0].path if model.alone else folder, where, lacks))
    return min(found, key=lambda place: len(place.missing), default=None)


def _candidates(model: HubModel) -> list[tuple[Path, str]]:
    if model.shipped:
        return [(SHIPPED / (model.within or model.name), "shipped")]
    found = [(own(model), "here")]
    for repo in (model.repo, *model.mirrors):
        if not repo.startswith("https:"):
            found += [(folder, "hub cache") for folder in _snapshots(repo, model.revision)]
    return [(folder, where) for folder, where in found if folder.is_dir()]


def _snapshots(repo: str, revision: str) -> list[Path]:
    """Of a repository in the cache: the pinned revision, else that of `main`, then the others, newest first."""
    top = hub_cache() / f"models--{repo.replace('/', '--')}"
    if revision != UNKNOWN:
        return [top / "snapshots" / revision]
    main = ""
    with suppress(OSError, ValueError):
        main = (top / "refs" / "main").read_text("utf-8").strip()
    found = [path for path in (top / "snapshots").glob("*") if path.is_dir()]
    return sorted(found, key=lambda path: (path.name != main, -path.stat().st_mtime))


def missing(model: HubModel, folder: Path) -> list[str]:
    """What a folder lacks of a model: of each slot of weights any variant will do."""
    lacks = [path for path in model.small if not (folder / path).is_file()]
    slots: dict[str, bool] = {}
    for weight in model.weights:
        slots[weight.slot] = slots.get(weight.slot, False) or bool(files_of(weight, folder))
    return lacks + [slot for slot, there in slots.items() if not there]


def files_of(weight: WeightFile, folder: Path) -> tuple[str, ...]:
    """The files that hold these weights there, shards with their index; none where one of them is missing."""
    if weight.shards <= 1 and (folder / weight.path).is_file():
        return (weight.path,)
    if weight.shards == 1 or not (folder / weight.index).is_file():
        return ()
    names = (weight.index, *shards_of(weight, folder / weight.index))
    return names if all((folder / name).is_file() for name in names) else ()


def shards_of(weight: WeightFile, index: Path) -> tuple[str, ...]:
    """Paths of the shards that an index speaks of. It says how many there are; what they are called we know."""
    said = f"{index}: is no index of shards of {Path(weight.path).name}"
    try:
        if index.stat().st_size > LARGEST_JSON:
            raise ModelError(f"{said} (too large)")
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"{said}; fetch it again") from None
    counts = {re.sub(r".*-of-0*(\d+)\..*", r"\1", str(name)) for name in names}
    count = int(counts.pop()) if len(counts) == 1 and (text := next(iter(counts))).isdecimal() and len(text) < 4 else 0
    paths = tuple(weight.shard(number, count) for number in range(1, count + 1))
    if not 0 < count <= MOST_SHARDS or names != {Path(path).name for path in paths}:
        raise ModelError(f"{said}: it names {printable(str(sorted(map(str, names))[:2]))}")
    return paths


def check_family(folder: Path, family: str, known: Registry) -> None:
    """Refuses a folder that says itself that it is of another family."""
    name = _class_name(folder)
    theirs = sorted(other for other, classes in known.classes.items() if name in classes)
    if name and theirs and family in known.classes and family not in theirs:
        wanted = known.classes[family]
        said = f", not {' or '.join(wanted)}" if wanted else ""
        raise ModelError(f"{folder}: is a {name} ({' or '.join(theirs)}){said}: no model for guidance {family}")


def _class_name(folder: Path) -> str:
    """What a folder calls itself, "" where it does not say."""
    for file in ("model_index.json", "config.json"):
        path = folder / file
        try:
            if path.stat().st_size > LARGEST_JSON:
                continue
            said = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(said, dict):
            names = said.get("architectures")
            name = said.get("_class_name") or (names[0] if isinstance(names, list) and names else "")
            if isinstance(name, str) and name:
                return name
    return ""
