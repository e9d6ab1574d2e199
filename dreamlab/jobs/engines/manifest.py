# SPDX-License-Identifier: Apache-2.0
"""What a batch is to make: a file of prompts, one a line, or a matrix; in the store as shards that never change."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.files import Json
from dreamlab.core.text import check_prompt, short
from dreamlab.jobs.batches import cells, filled
from dreamlab.jobs.engines.bucket import Bucket
from dreamlab.jobs.engines.ledger import Task, encoded
from dreamlab.jobs.requests import MOST_SEED

SHARD = 1000
MOST = 10_000_000
LARGEST = 1 << 30  # bytes of the file
FIELDS = ("prompt", "negative", "recipe", "seed", "image", "settings")
MATRIX = ("job", "zip", "cross")


def wanted(path: Path, changes: Sequence[str] = ()) -> Iterator[Json]:
    """The jobs of a file: JSONL or CSV, a job a line; YAML or JSON, a matrix. A line that is none is said with its
    number before anything is made. `changes`: settings, NAME=VALUE, that every job gets, whatever its line says."""
    given = _changes(changes)
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"{path}: {size >> 20} MiB; a batch's file has at most {LARGEST >> 20}")
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no UTF-8 text") from None
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".csv", ".yaml", ".yml", ".json"):
        raise InputError(f"{path}: .jsonl or .csv with a job a line, or .yaml or .json with a matrix of them")
    rows = _lines(text, path) if suffix == ".jsonl" else _table(text, path) if suffix == ".csv" else _matrix(text, path)
    for where, row in rows:
        made = checked(row, f"{path}:{where}", path.parent)
        yield made | {"settings": {**made.get("settings", {}), **given}} if given else made


def _changes(lines: Sequence[str]) -> dict[str, str]:
    pairs = [line.partition("=") for line in lines]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise RecipeError(f"--set {short(name)!r}: write NAME=VALUE, e.g. --set stages.0.steps=50")
    return {name: value for name, _, value in pairs}


def checked(row: object, where: str, folder: Path) -> Json:
    """One job, its fields as they should be; its picture by a whole path."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: is no job; write an object with a prompt")
    for name in row:
        if name not in FIELDS:
            raise InputError(f"{where}: {short(str(name))!r} is none of {', '.join(FIELDS)}")
    prompt, seed, settings = row.get("prompt", ""), row.get("seed"), row.get("settings", {})
    if not isinstance(prompt, str) or not prompt:
        raise InputError(f"{where}: needs a prompt")
    check_prompt(prompt, where)
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MOST_SEED):
        raise InputError(f"{where}: seed {short(str(seed))!r} is no whole number from 0 to {MOST_SEED}")
    if not isinstance(settings, Mapping):
        raise InputError(f"{where}: settings are an object of recipe settings, e.g. {{'stages.0.steps': 50}}")
    made: Json = {name: row[name] for name in FIELDS if row.get(name) not in (None, "", {})}
    if image := made.get("image"):
        if not (folder / str(image)).is_file():
            raise InputError(f"{where}: image {short(str(image))!r}: no such file")
        made["image"] = str((folder / str(image)).resolve())
    return made


def _lines(text: str, path: Path) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"{path}:{number}: is no JSON") from None


def _table(text: str, path: Path) -> Iterator[tuple[int, object]]:
    """Columns named as the fields; others are settings of the recipe."""
    reader = csv.DictReader(io.StringIO(text))
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"{path}:{reader.line_num}: has {'more' if None in row else 'fewer'} cells than the header"
            )
        made: dict[str, object] = {name: value for name, value in row.items() if name in FIELDS and value}
        if "seed" in made:
            made["seed"] = int(str(made["seed"])) if str(made["seed"]).isdigit() else made["seed"]
        settings = {name: value for name, value in row.items() if name not in FIELDS and value}
        yield reader.line_num, made | ({"settings": settings} if settings else {})


def _matrix(text: str, path: Path) -> Iterator[tuple[str, object]]:
    """`{job: {...}, zip: {name: [...]}, cross: {name: [...]}}`: zipped rows outside, crossed cells inside."""
    try:
        told = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(told, Mapping) or not set(told) <= set(MATRIX):
        raise RecipeError(f"{path}: a matrix has {', '.join(MATRIX)}")
    job, zipped, crossed = (told.get(name) or {} for name in MATRIX)
    for lists in (zipped, crossed):
        if not all(isinstance(values, list) and values for values in lists.values()):
            raise RecipeError(f"{path}: zip and cross hold lists of values")
    if len({len(values) for values in zipped.values()}) > 1:
        raise RecipeError(f"{path}: zip: its lists are not of one length")
    for i, values in enumerate(cells(zipped, crossed)):
        yield f"job {i}", filled(job, values, FIELDS)


class Manifest:
    """The shards in a store; read once each."""

    def __init__(self, bucket: Bucket, counts: Mapping[int, int]) -> None:
        self.bucket, self._counts = bucket, dict(counts)
        self._read: dict[int, Sequence[Json]] = {}

    def shards(self) -> Mapping[int, int]:
        return self._counts

    def task(self, shard: int, row: int) -> Task:
        if shard not in self._read:
            data = self.bucket.get(f"manifest/{shard:05d}.jsonl") or b""
            self._read = {shard: [json.loads(line) for line in data.splitlines()]}  # the one at hand; others come again
        return Task(shard, row, self._read[shard][row])

    def tasks(self) -> Iterator[Task]:
        return (self.task(shard, row) for shard, count in self._counts.items() for row in range(count))


def write_manifest(bucket: Bucket, jobs: Iterator[Json]) -> Manifest:
    """Shards first, the list of them last: a batch without it has not begun. The same batch again is the same; another
    one in its place is refused."""
    counts: dict[int, int] = {}
    for shard in itertools.count():
        rows = list(itertools.islice(jobs, SHARD))
        if not rows:
            break
        if shard * SHARD >= MOST:
            raise InputError(f"a batch has at most {MOST} jobs")
        counts[shard] = len(rows)
        _same(bucket, f"manifest/{shard:05d}.jsonl", b"\n".join(encoded(row) for row in rows))
    if not counts:
        raise InputError("the batch has no jobs")
    _same(bucket, "batch.json", encoded({"shards": {str(shard): count for shard, count in counts.items()}}))
    return Manifest(bucket, counts)


def _same(bucket: Bucket, key: str, data: bytes) -> None:
    if not bucket.create(key, data) and bucket.get(key) != data:
        raise InputError(f"{key}: another batch lies there; choose another --out")


def read_manifest(bucket: Bucket) -> Manifest:
    told = bucket.get("batch.json")
    if told is None:
        raise InputError("no batch lies there (batch.json is missing); start one: dreamlab batch FILE --out URL")
    return Manifest(bucket, {int(shard): count for shard, count in json.loads(told)["shards"].items()})
