# SPDX-License-Identifier: Apache-2.0
"""Where the prompt comes from: the command line, a file, a variable or stdin."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dreamlab.core.errors import InputError, RecipeError


def read_prompt(prompt: str | None, file: Path | None, env: str | None) -> tuple[str, list[str]]:
    """The prompt as given, byte for byte, from one place; an argument beside a file or variable is an override."""
    if file is not None and env is not None:
        raise RecipeError("give the prompt once: --prompt-file or --prompt-env")
    more = [prompt] if prompt is not None and (file or env) else []
    if file is not None:
        try:
            return file.read_bytes().decode("utf-8").removesuffix("\n"), more
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as a UTF-8 prompt ({error})") from None
    if env is not None:
        if env not in os.environ:
            raise InputError(f"--prompt-env: the variable {env} is not set")
        return os.environ[env], more
    if prompt is None:
        raise RecipeError('dream needs a prompt, e.g. dreamlab dream "a red mushroom with a white stem"')
    if prompt == "-":
        try:
            return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n"), more
        except UnicodeDecodeError as error:
            raise InputError(f"stdin: not UTF-8 text ({error.reason})") from None
    return prompt, more
