# SPDX-License-Identifier: Apache-2.0
"""Words from users: prompts are data and are kept byte for byte; folder names are made safe for every file system."""

from __future__ import annotations

import difflib
import re
import shlex
import unicodedata
from collections.abc import Iterable

from dreamlab.core.errors import InputError

MAX_PROMPT = 1000  # characters; text encoders read 77 tokens, so a longer one is a paste by mistake
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}


def check_prompt(text: str, what: str = "prompt") -> str:
    """Return `text` unchanged, or say in one line why it cannot be a prompt."""
    if len(text.strip()) < 2:
        raise InputError(f"{what}: {text!r} is empty or a single character; describe the object in a few words")
    if len(text) > MAX_PROMPT:
        raise InputError(f"{what}: {len(text)} characters, the limit is {MAX_PROMPT}; shorten it")
    for i, char in enumerate(text):
        category = unicodedata.category(char)
        if category == "Cs":  # how Python spells a byte that it could not decode
            raise InputError(f"{what}: character {i} is no UTF-8 text; write it in UTF-8")
        if category == "Cc" and char not in "\n\t":
            raise InputError(f"{what}: character {i} is U+{ord(char):04X}, a control character; remove it")
    return text


def slug(text: str, limit: int = 40) -> str:
    """An ASCII name that any file system accepts: lower case, digits and dashes, never empty or reserved."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:limit].strip("-")
    return f"x-{name}" if name in _RESERVED else name or "dream"


def shell(*words: object) -> str:
    """A command to copy into a shell: `dreamlab` with these words, quoted where they must be."""
    return shlex.join(["dreamlab", *map(str, words)])


def short(text: str, most: int = 120) -> str:
    """For a message that quotes what somebody wrote, however long that is."""
    return text if len(text) <= most else text[: most - 3] + "..."


def printable(text: str) -> str:
    """What a stranger's file says, on one line and without what a terminal would obey."""
    return short("".join(char if char.isprintable() else "\ufffd" for char in text), 400)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was probably meant to be."""
    found = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)', or the list of names when nothing is near; ready to append to a message."""
    names = sorted(known)
    close = nearest(word, names)
    if close:
        return f" (did you mean {close!r}?)"
    return f" (known: {', '.join(names)})" if names else ""
