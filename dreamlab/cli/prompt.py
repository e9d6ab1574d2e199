# SPDX-License-Identifier: Apache-2.0
"""Where the prompt comes from: the command line, a file, a variable or stdin; and which words are settings instead."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dreamlab.core.errors import InputError, RecipeError
from dreamlab.core.foreign.files import read_bytes
from dreamlab.core.text import did_you_mean, short

MOST = 1 << 16  # bytes of a prompt, from wherever; far above what one may have (`core.text.MAX_PROMPT`)
# What a setting of a recipe begins with, its short forms included; a test holds them against the reader.
KEYS = {"prompt", "prompts", "stages", "negative", "seed", "image", "export", "keeping", "guard"}
KEYS |= {"steps", "views", "size", "formats", "model"}
_SETTING = re.compile(r"([a-z_]+)((?:\.[\w-]+)*)=(\S*\Z)?")


def is_setting(word: str) -> bool:
    """Whether a word of the command line is a setting, `key=value` or `key.more=value`, wherever it stands; so is one
    that nearly is, if it is no sentence: then it is said what was meant. A prompt may hold a '=', and one
    that begins like a setting all the same comes by --prompt-file, --prompt-env or stdin."""
    found = _SETTING.match(word)
    if found is None:
        return False
    key, more, single = found.groups()
    return key in KEYS or bool(more) or (single is not None and bool(difflib.get_close_matches(key, KEYS, cutoff=0.7)))


def sorted_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The prompt among the words of a command line, if there is one, and the settings."""
    settings = [word for word in words if is_setting(word)]
    others = [word for word in words if not is_setting(word)]
    for word in others[1:]:
        if "=" in word and " " not in word.partition("=")[0]:  # after a prompt, that is a setting by a wrong name
            settings.append(word)
        else:
            raise RecipeError(
                f"{short(word)!r}: the prompt is {short(others[0])!r} already; quote a prompt of several words"
            )
    for setting in settings:
        key = re.split(r"[.=]", setting, maxsplit=1)[0]
        if key not in KEYS:
            raise RecipeError(f"{short(key)}: is not a setting of a recipe{did_you_mean(key, KEYS)}")
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
