# SPDX-License-Identifier: Apache-2.0
"""Rows that follow one another and that a model sees as one: the views of an object, the frames of a clip."""

from __future__ import annotations

from dreamlab.core.errors import InputError


def share(rows: int, joint: int, what: str) -> int:
    """How many rows are seen together: all of a small batch, else the number the model was trained with."""
    size = min(rows, joint)
    if rows % size:
        raise InputError(f"views: {rows}: this prior looks at {joint} {what} together; give a multiple of {joint}")
    return size
