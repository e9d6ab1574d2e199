# SPDX-License-Identifier: Apache-2.0
"""Every way a run can end badly, with its documented exit code. A message says what, where, and what to do."""

from __future__ import annotations

import errno


class DreamError(Exception):
    """Base of the errors a user may cause or meet; the command line prints the message alone, no traceback."""

    exit_code = 1


class RecipeError(DreamError):
    """A recipe, an override or a command line that cannot be meant as written."""

    exit_code = 2


class InputError(DreamError):
    """A prompt, picture, file or run folder that cannot be used."""

    exit_code = 3


class ModelError(DreamError):
    """A model that is absent, gated, damaged or not for this."""

    exit_code = 4


class OutOfMemory(DreamError):
    """Device or host memory ran out."""

    exit_code = 5


class Diverged(DreamError):
    """The optimisation stayed non-finite after skipping and rolling back, or left nothing to export."""

    exit_code = 6


class DiskError(DreamError):
    """No space left, or no permission to write."""

    exit_code = 7


class Interrupted(DreamError):
    """Stopped by a signal after a checkpoint; `resume` continues. 75 (temporary failure), or 130 after Ctrl-C."""

    def __init__(self, message: str, exit_code: int = 75) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RankLost(Interrupted):
    """Another process of the same run has died, or is stuck; running it again goes on from the last checkpoint."""


_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def is_disk_error(error: OSError) -> bool:
    """Whether an OSError means that the disk, a quota or a permission refused the write."""
    return error.errno in _DISK_ERRNOS
