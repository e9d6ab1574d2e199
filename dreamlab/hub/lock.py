# SPDX-License-Identifier: Apache-2.0
"""What was seen of a model at first use: its commit and the SHA-256 of files that the registry knows none of. One JSON
file a model, beside the models; a later file that differs is then another file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dreamlab.core.errors import DiskError, ModelError
from dreamlab.core.files import disk_errors, remedy, try_lock, write_json
from dreamlab.hub.places import models_folder


@dataclass
class Pinned:
    """Of one model."""

    repo: str = ""  # that it was fetched from
    commit: str = ""  # of that repository; "": not known
    sha256: dict[str, str] = field(default_factory=dict)  # path within the repository -> of its file


def pinned(name: str) -> Pinned:
    path = models_folder() / ".pins" / f"{name}.json"
    try:
        said = json.loads(path.read_text("utf-8"))
        files: Mapping[str, str] = said["sha256"]
        return Pinned(str(said["repo"]), str(said["commit"]), {str(key): str(files[key]) for key in files})
    except FileNotFoundError:
        return Pinned()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(
            f"{path}: is damaged; remove it, and the next `dreamlab models verify` writes it anew"
        ) from None


def pin(name: str, pins: Pinned) -> None:
    path = models_folder() / ".pins" / f"{name}.json"
    with disk_errors("pinning a model", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"repo": pins.repo, "commit": pins.commit, "sha256": pins.sha256})


@contextmanager
def held(name: str) -> Iterator[None]:
    """One process fetches a model at a time."""
    path = models_folder() / ".pins" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
    except OSError as error:
        raise DiskError(f"{path}: cannot be written ({error.strerror}); {remedy(error)}") from None
    with handle:
        if not try_lock(handle.fileno()):
            handle.seek(0)
            raise ModelError(f"model {name}: process {handle.read().strip()[:20]} is fetching it; wait or stop it")
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
