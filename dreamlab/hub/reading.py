# SPDX-License-Identifier: Apache-2.0
"""Reading the registry strictly: every message names the file, the entry and the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from dreamlab.core.errors import ModelError
from dreamlab.core.text import did_you_mean, short
from dreamlab.hub.registry import COMMERCIAL, MOST_SHARDS, SUFFIXES, UNKNOWN, WIDTHS, HubModel, Registry, WeightFile

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_PATH = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
_REPO = re.compile(r"[\w.-]+/[\w.-]+|https://[\w./-]+", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def read(path: Path) -> Registry:
    """ModelError names the file, the entry and what is wrong with it."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name}: cannot be read ({error})") from None
    top = _Entry(path.name, table, ("families", "models"))
    families = {
        name: _Entry(f"{path.name}: {name}", values, ("classes", "estimator"))
        for name, values in top.table("families").items()
    }
    classes = {name: family.words("classes") for name, family in families.items()}
    models = {}
    for name in top.table("models"):
        models[name] = _model(path.name, name, top.table("models")[name], classes)
    for model in models.values():
        if model.base and model.base not in models:
            raise ModelError(f"{path.name}: {model.name}: base {model.base!r}{did_you_mean(model.base, models)}")
        if model.within and not (model.within in models and models[model.within].shipped):
            raise ModelError(f"{path.name}: {model.name}: within {model.within!r}: comes not with the package")
    estimators = frozenset(name for name, family in families.items() if family.truth("estimator"))
    return Registry(models, classes, estimators)


class _Entry:
    """A table whose keys are asked for by type; keys nobody knows are refused."""

    def __init__(self, where: str, table: object, known: tuple[str, ...]) -> None:
        if not isinstance(table, dict):
            raise ModelError(f"{where}: is no table")
        self.where, self.values = where, table
        for key in table:
            if key not in known:
                raise ModelError(f"{where}: unknown key {short(key)!r}{did_you_mean(key, known)}")

    def wrong(self, key: str, why: str) -> ModelError:
        return ModelError(f"{self.where}: {key} {short(repr(self.values.get(key)))} {why}")

    def table(self, key: str) -> dict[str, object]:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "is no table")
        return value

    def word(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "must be text" if key in self.values else "is missing")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.wrong(key, "must be a list of texts")
        return tuple(value)

    def number(self, key: str, default: int = 0) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(key, "must be a whole number")
        return value

    def truth(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def paths(self, key: str) -> tuple[str, ...]:
        return tuple(self.path(key, each) for text in self.words(key) for each in _braces(text))

    def path(self, key: str, text: str) -> str:
        if not _PATH.fullmatch(text) or ".." in text or PurePosixPath(text).suffix not in SUFFIXES:
            raise self.wrong(key, f"holds {text!r}: a path within the repository to one of {', '.join(SUFFIXES)}")
        return text


def _braces(text: str) -> list[str]:
    """`tokenizer/{vocab.json,merges.txt}` is two paths."""
    found = re.fullmatch(r"([^{}]*)\{([^{}]*)\}([^{}]*)", text)
    return [f"{found[1]}{each}{found[3]}" for each in found[2].split(",")] if found else [text]


_MODEL = (
    *("family", "layout", "repo", "mirrors", "revision", "licence", "commercial", "gated", "base", "within"),
    *("small", "maybe", "weights"),
)
_WEIGHTS = ("path", "variant", "type", "params", "bytes", "sha256", "shards")


def _model(file: str, name: str, table: object, classes: Mapping[str, tuple[str, ...]]) -> HubModel:
    entry = _Entry(f"{file}: {name}", table, _MODEL)
    if not _NAME.fullmatch(name):
        raise ModelError(f"{file}: {short(name)!r} is no name of a model: small letters, digits, dots and dashes")
    families = entry.words("family") if isinstance(entry.values.get("family"), list) else (entry.word("family"),)
    for family in families:
        if family not in classes:
            raise entry.wrong("family", f"is not under [families]{did_you_mean(family, classes)}")
    repo, mirrors = entry.word("repo", ""), entry.words("mirrors")
    if not all(_REPO.fullmatch(each) for each in (*mirrors, *([repo] if repo else []))):
        raise entry.wrong("repo", "and mirrors must be OWNER/NAME or https://...")
    revision = entry.word("revision", UNKNOWN)
    if revision != UNKNOWN and not _COMMIT.fullmatch(revision):
        raise entry.wrong("revision", f"must be a commit of 40 digits, or {UNKNOWN!r}: a branch moves")
    commercial = entry.word("commercial")
    if commercial not in COMMERCIAL:
        raise entry.wrong("commercial", f"must be one of {', '.join(COMMERCIAL)}")
    listed = entry.values.get("weights", [])
    weights = [_weight(f"{file}: {name}", each) for each in (listed if isinstance(listed, list) else [listed])]
    if not weights:
        raise ModelError(f"{file}: {name}: weights are missing")
    files = [*entry.paths("small"), *entry.paths("maybe"), *(weight.path for weight in weights)]
    if twice := sorted({path for path in files if files.count(path) > 1}):
        raise ModelError(f"{file}: {name}: {twice[0]} is there twice")
    return HubModel(
        name,
        families,
        entry.word("layout", ""),
        repo,
        mirrors,
        revision,
        entry.word("licence"),
        commercial,
        entry.truth("gated"),
        entry.word("base", ""),
        entry.word("within", ""),
        entry.paths("small"),
        entry.paths("maybe"),
        tuple(weights),
    )


def _weight(where: str, table: object) -> WeightFile:
    entry = _Entry(f"{where}: weights", table, _WEIGHTS)
    path = entry.path("path", entry.word("path"))
    sha256, kind = entry.word("sha256", ""), entry.word("type", "")
    if sha256 and not _SHA.fullmatch(sha256):
        raise entry.wrong("sha256", "must be 64 hexadecimal digits")
    if kind and kind not in WIDTHS:
        raise entry.wrong("type", f"must be one of {', '.join(WIDTHS)}")
    shards = 0 if entry.values.get("shards") == UNKNOWN else entry.number("shards", 1)
    if shards > MOST_SHARDS:
        raise entry.wrong("shards", f"must be at most {MOST_SHARDS}")
    if shards != 1 and (sha256 or entry.number("bytes")):
        raise entry.wrong("shards", "have bytes and sha256 each: list them one by one")
    return WeightFile(
        path, entry.word("variant", ""), kind, entry.number("params"), entry.number("bytes"), sha256, shards
    )
