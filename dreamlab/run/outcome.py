# SPDX-License-Identifier: Apache-2.0
"""However the work in a run folder ends badly, its state, events and log say so, and the user gets one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from dreamlab.core.errors import DiskError, DreamError, InputError, Interrupted, OutOfMemory, is_disk_error
from dreamlab.core.files import remedy
from dreamlab.core.text import shell
from dreamlab.run.folder import Run


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """Failures of every kind leave the state `failed`; those of the machine become errors that say what to do."""
    try:
        yield
    except Interrupted:
        run.event("interrupted")
        run.log("interrupted by a signal; the state is saved")
        raise
    except Exception as error:
        known = explained(run, error)
        _record_failure(run, f"{type(error).__name__}: {error}" if known is None else str(known))
        if known is None or known is error:
            raise
        raise known from error


def explained(run: Run, error: Exception) -> DreamError | None:
    """The error as the user should read it; none for a defect of ours."""
    if isinstance(error, OSError | DiskError) and not run.recipe_path().is_file():
        return InputError(f"{run.path}: the run folder was removed or moved while it was in use; nothing more is saved")
    if isinstance(error, DreamError):
        return error
    if isinstance(error, OSError) and is_disk_error(error):
        again = shell("resume", run.path)
        return DiskError(f"{run.path}: cannot write ({error.strerror}); {remedy(error)}, then: {again}")
    if is_out_of_memory(error):
        return OutOfMemory(
            f"{run.path}: out of memory; try fewer views, a smaller size, or --device cpu ({str(error)[:200]})"
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that device or host memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("allocate memory" in said or "out of memory" in said)


def _record_failure(run: Run, message: str) -> None:
    """As much as the disk allows: the reason must not be hidden by a second failure."""
    with suppress(OSError, DreamError):
        run.set_state(state="failed", error=message)
    with suppress(OSError):
        run.event("failed", error=message)
        run.log(message)
