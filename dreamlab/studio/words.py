# SPDX-License-Identifier: Apache-2.0
"""Which words of a prompt a recipe's models know, what was probably meant by the others, and how much they hear."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from dreamlab.core.cards import WordsHeard
from dreamlab.core.files import Json
from dreamlab.recipe.apart import heard_apart
from dreamlab.studio.recipes import loaded

_WORD = re.compile(r"[\w'-]+")


def heard(prompt: str, name: str) -> Json:
    """`{"words": [{"text", "known", "suggest"}], "tokens", "limit", "unheard", "read", "unmade"}` of a packaged
    recipe; `unheard`: what of the prompt is beyond the limit, `read`: a line for each slip of the pen, `unmade`: one
    for each thing that is asked for and will not come."""
    asked = replace(loaded(name), prompt=prompt, prompts=())
    found = heard_apart(asked) if prompt.strip() else ()
    unknown: dict[str, tuple[str, ...]] = {}
    for each in found:
        unknown |= {word: near or unknown.get(word, ()) for word, near in each.unknown.items()}
    counted = [each for each in found if each.tokens is not None and each.limit is not None]
    tightest = min(counted, key=lambda each: (each.limit or 0) - (each.tokens or 0), default=WordsHeard())
    return {
        "words": [_word(text, unknown) for text in _texts(prompt, unknown)],
        "tokens": tightest.tokens,
        "limit": tightest.limit,
        "unheard": tightest.unheard,
        "read": list(dict.fromkeys(line for each in found for line in each.read)),
        "unmade": list(dict.fromkeys(line for each in found for line in each.unmade)),
    }


def _texts(prompt: str, unknown: Iterable[str]) -> list[str]:
    """The prompt's words as typed; an unknown name of several words is one of them."""
    longer = sorted((name for name in unknown if " " in name), key=len, reverse=True)
    pattern = "|".join([*map(re.escape, longer), _WORD.pattern])
    return re.findall(pattern, prompt, re.IGNORECASE)[:200]


def _word(text: str, unknown: dict[str, tuple[str, ...]]) -> Json:
    """A word is unknown if it, or a part of it between hyphens, is."""
    parts = [text.lower(), *re.findall(r"[a-z0-9]+", text.lower())]
    missed = [part for part in parts if part in unknown]
    suggest = dict.fromkeys(near for part in missed for near in unknown[part])
    return {"text": text, "known": not missed, "suggest": list(suggest)[:3]}
