# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: written under a temporary name, hashed, fsynced, renamed; read only when every hash is right.

A checkpoint is `ckpt/step_000400/` with one safetensors file per part, `meta.json` and `MANIFEST` (sha256 and size of
each file). safetensors does not notice a flipped bit in its data, the manifest does.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dreamlab.core.errors import InputError
from dreamlab.core.files import Json, disk_errors, fsync_path, sha256
from dreamlab.run.crash import point

MANIFEST = "MANIFEST"
ASIDE = ".old-"  # before the name of a checkpoint that is being replaced
Parts = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on."""

    path: Path
    parts: dict[str, dict[str, Tensor]]
    meta: Json


def write(folder: Path, global_step: int, parts: Parts, meta: Json, keep: int) -> Path:
    """Commit a checkpoint and drop all but the newest `keep`. Whatever fails, the previous one stays as it was."""
    final = folder / f"step_{global_step:06d}"
    temporary = folder / f".tmp-{final.name}-{os.getpid()}"
    with disk_errors("writing a checkpoint", final):
        try:
            folder.mkdir(exist_ok=True)  # not its parents: a run whose folder was removed must not go on in another
            sweep(folder)
            point("ckpt.begin")
            temporary.mkdir()
            _fill(temporary, parts, meta)
            point("ckpt.before_rename")
            _place(temporary, final)
            fsync_path(folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    point("ckpt.after_rename")
    for old in committed(folder)[:-keep]:
        shutil.rmtree(old)
    point("ckpt.after_prune")
    return final


def _place(temporary: Path, final: Path) -> None:
    """Give a checkpoint its name. A folder cannot be renamed onto another, so one of the same step, which a run that
    rolled back comes through again, steps aside first; `sweep` brings it back if nothing takes its place."""
    if not final.exists():
        temporary.rename(final)
        return
    point("ckpt.rewrite_begin")
    aside = final.with_name(ASIDE + final.name)
    final.rename(aside)
    point("ckpt.rewrite_aside")
    try:
        temporary.rename(final)
    except OSError:
        aside.rename(final)
        raise
    point("ckpt.rewrite_placed")
    shutil.rmtree(aside)


def _fill(temporary: Path, parts: Parts, meta: Json) -> None:
    payload = {
        f"{name}.safetensors": save({key: value.cpu().contiguous() for key, value in tensors.items()})
        for name, tensors in parts.items()
    }
    payload["meta.json"] = json.dumps(dict(meta), indent=1, sort_keys=True).encode()
    for i, (name, data) in enumerate(payload.items()):
        with (temporary / name).open("wb") as handle:
            if i == 0:
                handle.write(data[: len(data) // 2])
                handle.flush()
                point("ckpt.half_written")
                data = data[len(data) // 2 :]
            handle.write(data)
            handle.flush()
            point("ckpt.before_fsync")
            os.fsync(handle.fileno())
    point("ckpt.before_manifest")
    files = {name: {"sha256": sha256(temporary / name), "bytes": len(data)} for name, data in payload.items()}
    with (temporary / MANIFEST).open("w") as handle:
        json.dump({"files": files}, handle, indent=1, sort_keys=True)
        handle.flush()
        os.fsync(handle.fileno())
    fsync_path(temporary)


def read_newest(folder: Path, warn: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The newest checkpoint whose every hash is right; damaged ones are set aside as `*.corrupt`.

    None when the run never committed one. If there were some and none is whole, that is an error: a run never
    silently starts again at 0.
    """
    sweep(folder)
    damaged = []
    for path in reversed(committed(folder)):
        wrong = fault(path)
        if wrong is None:
            try:
                return _read(path)
            except (SafetensorError, ValueError, RecursionError):  # hashed as it is, and yet nothing to read
                wrong = "a file is not what its name says"
        aside = path.with_name(f"{path.name}.corrupt")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        damaged.append(f"{path.name}: {wrong}")
        if warn:
            warn(f"{path}: damaged ({wrong}); set aside as {aside.name}, trying the one before it")
    if damaged or any(folder.glob("*.corrupt")):
        raise InputError(
            f"{folder}: no whole checkpoint is left ({', '.join(damaged) or 'all set aside'}); start a new run"
        )
    return None


def read_at(folder: Path, step: int | None) -> Checkpoint | None:
    """The checkpoint of a step, or the newest one, in a folder that others may be writing to: nothing in it is moved or
    removed. None when it has none."""
    kept = committed(folder)
    if not kept:
        return None
    named = {int(path.name[5:]): path for path in kept}
    path = kept[-1] if step is None else named.get(step)
    if path is None:
        raise InputError(f"{folder}: keeps no checkpoint of step {step}; it has {', '.join(map(str, named))}")
    wrong = fault(path)
    try:
        if wrong is None:
            return _read(path)
    except (OSError, SafetensorError, ValueError, RecursionError):
        wrong = "it was replaced meanwhile, or is not what its name says"
    raise InputError(f"{path}: cannot be used ({wrong}); take another step")


def sweep(folder: Path) -> None:
    """Remove what a killed writer left behind, and bring back what it had only set aside."""
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for aside in folder.glob(f"{ASIDE}*"):
        final = aside.with_name(aside.name.removeprefix(ASIDE))
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)


def committed(folder: Path) -> list[Path]:
    """Oldest first, by number: as words, step_1000000 would stand before step_999999."""
    found = (path for path in folder.glob("step_*") if path.name[5:].isdecimal() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name[5:]))


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint on the disk, in a few words; none when every hash is right."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())["files"]
        entries = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    for name, (size, digest) in entries.items():
        try:
            if (path / name).stat().st_size != size:
                return f"{name} has {(path / name).stat().st_size} bytes of {size}"
            if sha256(path / name) != digest:
                return f"{name} has changed: its sha256 is another"
        except OSError as error:
            return f"{name} is missing" if isinstance(error, FileNotFoundError) else f"{name}: {error.strerror}"
    return None if "meta.json" in entries else "meta.json is missing"


def _read(path: Path) -> Checkpoint:
    meta, manifest = (json.loads((path / name).read_text()) for name in ("meta.json", MANIFEST))
    names = [name for name in manifest["files"] if name.endswith(".safetensors")]
    return Checkpoint(path, {name.removesuffix(".safetensors"): load_file(path / name) for name in names}, meta)
