# SPDX-License-Identifier: Apache-2.0
"""Where the prompt comes from: the command line, a file, a variable or stdin; and which words are settings instead."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.foreign.files import read_bytes

MOST = 1 << 16  # bytes of a prompt, from wherever; far above what one may have (`core.text.MAX_PROMPT`)
_SETTING = re.compile(r"([a-z_]+)((?:\.[\w-]+)*)=")


def is_setting(word: str, keys: Collection[str]) -> bool:
    """Whether a word of the command line is a recipe's setting, `key=value` or `key.more=value`, wherever it stands.

    `keys`: what a recipe's settings begin with. A prompt may hold a '=' as well; one that looks like a setting all the
    same comes by --prompt-file, --prompt-env or stdin.
    """
    found = _SETTING.match(word)
    return found is not None and (found[1] in keys or bool(found[2]))


def sorted_words(words: Sequence[str], keys: Collection[str]) -> tuple[str | None, list[str]]:
    """The prompt among the words of a command line, if there is one, and the settings."""
    settings = [word for word in words if is_setting(word, keys)]
    others = [word for word in words if not is_setting(word, keys)]
    if len(others) > 1:
        first, second = others[:2]
        likely = "" if "=" in second or " " in first else "; a prompt of several words is quoted"
        raise RecipeError(f"{second!r} is no setting (key=value), and the prompt is {first!r}{likely}")
    return (others[0] if others else None), settings


def read_prompt(prompt: str | None, file: Path | None, env: str | None) -> str | None:
    """The prompt as given, byte for byte, from one place; None: from none."""
    if sum(place is not None for place in (prompt, file, env)) > 1:
        raise RecipeError("give the prompt once: as an argument, by --prompt-file or by --prompt-env")
    if file is not None:
        return _text(read_bytes(file, "--prompt-file", MOST), f"--prompt-file {file}")
    if env is not None:
        if env not in os.environ:
            raise InputError(f"--prompt-env: the variable {env} is not set")
        return os.environ[env]
    if prompt == "-":
        data = sys.stdin.buffer.read(MOST + 1)
        if len(data) > MOST:
            raise InputError(f"stdin: more than {MOST} bytes are no prompt")
        return _text(data, "stdin")
    return prompt


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text (byte {error.start})") from None
