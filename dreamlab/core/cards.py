# SPDX-License-Identifier: Apache-2.0
"""Cards: what an entry of the three tables can do and what it needs, said before anything of it is built.

Every guidance, rule and scene answers `card(settings)`; `dreamlab.recipe.checks` holds the cards of a stage against
each other, so that what cannot work together is a line about the recipe and not a failure at step 1.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from dreamlab.core.types import Prompt, Scene


def hears_anything(prompt: Prompt) -> None:
    """Of a guidance that takes any words."""


@dataclass(frozen=True)
class WordsHeard:
    """What a guidance makes of a text: words it does not know with the nearest it does, and how much it takes in."""

    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokens: int | None = None  # of the text; None: nobody here can count them
    limit: int | None = None  # of tokens; what comes after is not heard
    unheard: str = ""  # that, as it was written
    read: tuple[str, ...] = ()  # a line for each slip of the pen: what it was read as
    unmade: tuple[str, ...] = ()  # a line for each thing that is asked for and will not come


def beyond(text: str, count: Callable[[str], int], limit: int) -> str:
    """What is left of a text when so many tokens of it are heard; a word of which a part is cut off belongs to it."""
    if count(text) <= limit:
        return ""
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    fit = bisect_right(ends, limit, key=lambda end: count(text[:end]))
    return text[ends[fit - 1] if fit else 0 :].strip()


def knows_all(text: str) -> WordsHeard:
    """Of a guidance that takes any words, and as many."""
    return WordsHeard()


@dataclass(frozen=True)
class Stand:
    """Where a camera must stand for a guidance that knows no others."""

    azimuth_deg: float  # from that of the prompt's picture
    elevation_deg: float | None = None  # None: any


@dataclass(frozen=True)
class GuidanceCard:
    """What a guidance with these settings can do, and what it must be given."""

    conditions: frozenset[str]  # the variants it makes
    together: int = 1  # rows that follow one another and that it sees as one
    clip: bool = False  # ... as moments of one motion, in order; else as views of one moment
    whole: bool = False  # ... and never fewer of them
    one_time: bool = False  # ... all at the same noise: it was trained so
    folds: int = 1  # frames of a clip that are one row of its latents, whose time is compressed ...
    moments: int = 1  # ... to so many: a row is [C moments, h, w], a channel's moments side by side
    stands: tuple[Stand, ...] = ()  # of the views that it sees as one, in order; none: they may stand anywhere
    level: bool = False  # ... as high as the picture's
    backdrop: str = ""  # the background of a stage that its pictures stand before; empty: any
    views: str = "all"  # the views it can speak of: all, or those of the prompt's picture alone (given)
    anywhere: frozenset[str] = frozenset()  # ... but for these conditions, which hold of all
    picture: bool = False  # follows the prompt's picture
    frames_picture: bool = False  # `Framer`: knows how a picture's object would stand in its own world
    normals: bool = False  # is told the normals of the frames
    lights: bool = False  # is shown the frames' bare surface under their light
    adapter: bool = False  # `Adapting`: offers trainable additions
    encodes: bool = False  # `Encoder`: says a text as a vector
    dresses: bool = False  # `Dresser`: draws materials by words
    empties: bool = False  # `Emptying`: knows what is empty inside
    single: bool = False  # makes one still object of a prompt; of several, each is asked for by itself
    world: bool = False  # knows the procedural world's words alone ...
    quotes: Mapping[str, str] = field(default_factory=dict)  # ... also in these texts of its settings, by name
    listen: Callable[[Prompt], None] = hears_anything  # complains of words that it does not know
    hear: Callable[[str], WordsHeard] = knows_all  # the same for whoever writes a text, word by word
    models: tuple[tuple[str, str], ...] = ()  # pretrained ones, by name or path, each with its family
    embedded: str = ""  # the role of the embedded prior that can stand in where those are not here


@dataclass(frozen=True)
class RuleCard:
    """What a rule with these settings asks of its guidance, of its scene and of the views it sees."""

    conditions: frozenset[str]  # the variants it asks for
    views: int = 1  # it sees a multiple of so many
    clip: bool = False  # ... which are clips of that length
    least: int = 1  # with fewer it has nothing to say
    group: int = 0  # it treats so many in a row as views of one sample; 0: each by itself
    adapter: bool = False  # trains the guidance's additions
    guided: bool = False  # the unconditional half only serves guidance: adaptive guidance may leave it out
    rescales: bool = False  # `prompting.rescale` reaches its guidance
    colours: bool = False  # reads the colours of the frames, whatever the guidance is shown
    normals: bool = False  # compares the frames' normals
    maps: frozenset[str] = frozenset()  # of known pictures that it compares, besides colour and mask: depth, normal
    remembers: bool = False  # keeps something of the renders of one prompt
    frames: bool = False  # holds the frames against the latents, row by row
    texts: tuple[str, ...] = ()  # what it asks its guidance for in place of the prompt
    complaint: str = ""  # what is wrong between its settings


@dataclass(frozen=True)
class Backing:
    """What runs the ops of a scene, or of an object in one."""

    backend: str  # auto, native, torch, or the package that was asked for
    able: tuple[str, ...]  # packages that have one of its ops
    where: str = ""  # of the object in the scene's settings, with a dot at the end


@dataclass(frozen=True)
class SceneCard:
    """What a scene with these settings is made of and what its frames hold."""

    penalties: tuple[str, ...] = ()  # the regularisers that it can compute
    lacking: Mapping[str, str] = field(default_factory=dict)  # those it could with another setting: name -> which
    moves: bool = False  # depends on the cameras' times
    normals: bool = False  # its frames have normals
    latents: bool = False  # its frames have latents
    lights: bool = False  # its frames show the bare surface under their light (`extra`: lights)
    many: bool = False  # `Maker`: one generator for many prompts
    backing: tuple[Backing, ...] = ()
    group: int = 1  # successive views that it draws alike in something
    starts: tuple[tuple[str, str], ...] = ()  # (stage, kind) of what in it takes over from an earlier stage
    told: tuple[str, ...] = ()  # `EachTold`: the words of its objects, each made by its own
    complaint: str = ""  # what is wrong between its settings


class Entry(Protocol):
    """A class in one of the tables: its source, and its settings, a frozen dataclass whose fields all have defaults."""

    @property
    def paper(self) -> str: ...

    def Settings(self) -> object: ...


class SceneKind(Entry, Protocol):
    """A class of scenes, as the table holds it."""

    def card(self, settings: Any) -> SceneCard: ...

    def __call__(self, settings: Any, generator: torch.Generator) -> Scene: ...
