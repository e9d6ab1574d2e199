# SPDX-License-Identifier: Apache-2.0
"""What a prompt says of the procedural world, or which of its words nobody there knows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from dreamlab.core.errors import InputError
from dreamlab.toybox.caption import Caption, parse
from dreamlab.toybox.layout import things

TWO = 2


@lru_cache(maxsize=4096)
def understand(text: str, what: str = "prompt") -> Caption:
    """What a prompt asks the oracle for; every word it does not know is named."""
    try:
        caption = parse(text)
    except ValueError as error:
        raise InputError(f"{what}: {error} (see: dreamlab list objects)") from None
    if len(objects := things(text)) > TWO:
        said = ", ".join(repr(one.text) for one in objects)
        raise InputError(
            f"{what}: the oracle's world holds two objects, and this names {said}: --recipe toybox makes each"
        )
    if caption.unknown:
        raise InputError(f"{what}: {_unknown(caption.unknown)}")
    return caption


def _unknown(words: Mapping[str, tuple[str, ...]]) -> str:
    """One line that names every word nobody knows, with the nearest known ones."""
    hints = [f"{word!r}" + (f" (did you mean {' or '.join(near)}?)" if near else "") for word, near in words.items()]
    return f"the oracle does not know {', '.join(hints)}"
