# SPDX-License-Identifier: Apache-2.0
"""However the work in a run folder ends badly, its state, events and log say so, and the user gets one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from dreamlab.core.errors import DiskError, DreamError, InputError, Interrupted, OutOfMemory, RankLost, is_disk_error
from dreamlab.core.files import remedy
from dreamlab.core.text import shell
from dreamlab.run.folder import Run


@contextmanager
def said(run: Run) -> Iterator[None]:
    """Failures of the machine, and of the run's own files, become errors that say what to do."""
    try:
        yield
    except Exception as error:
        known = explained(run, error)
        if known is None or known is error:
            raise
        raise known from error


@contextmanager
def recorded(run: Run) -> Iterator[None]:
    """The same, and failures of every kind leave the state `failed`."""
    try:
        with said(run):
            yield
    except RankLost as error:
        run.set_state(state="interrupted")
        run.event("interrupted")
        run.log(str(error))
        raise
    except Interrupted:
        run.event("interrupted")
        run.log("interrupted by a signal; the state is saved")
        raise
    except Exception as error:
        _record_failure(run, str(error) if isinstance(error, DreamError) else f"{type(error).__name__}: {error}")
        raise


def explained(run: Run, error: Exception) -> DreamError | None:
    """The error as the user should read it; none for a defect of ours."""
    if isinstance(error, OSError | DiskError) and not run.recipe_path().is_file():
        return InputError(f"{run.path}: the run folder was removed or moved while it was in use; nothing more is saved")
    if isinstance(error, DreamError):
        return error
    if isinstance(error, OSError):
        ours = str(error.filename or "").startswith(str(run.path))
        if ours or is_disk_error(error):
            where, again = error.filename if ours else run.path, shell("resume", run.path)
            return DiskError(f"{where}: cannot be used ({error.strerror}); {remedy(error)}, then: {again}")
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
