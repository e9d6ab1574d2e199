# SPDX-License-Identifier: Apache-2.0
"""What a folder of a diffusion model consists of: its networks, tokenizers, scheduler, and the files that name them.

Configurations are data, as their config.json writes them: `full` is the model that users have, `tiny` the same
architecture with widths that run in milliseconds, `deep` tiny widths at the true depth (single files are recognised by
their blocks). Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Size = Literal["tiny", "deep", "full"]
Library = Literal["diffusers", "transformers"]
Config = dict[str, object]

WEIGHTS: Mapping[Library, str] = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}


@dataclass(frozen=True)
class Network:
    """One network: the class that builds it, and how its file differs from what `save_pretrained` would write."""

    folder: str  # "" is a repository of this one network
    library: Library
    kind: str  # class of that library, or one of guidance.layouts.own
    full: Config
    tiny: Config
    deep: Config | None = None
    renamed: tuple[str, str] = ("", "")  # beginning of a name in the class, in the file (transformers 5 drops prefixes)
    position_ids: int = 0  # length of the int64 buffer that files of transformers before 4.31 hold
    dtype: str = "fp32"  # of the published file
    shards: int = 1
    version: str = ""  # _diffusers_version, transformers_version
    named: tuple[str, str] = ("", "")  # library and class in model_index.json, where not the above
    needed: bool = True  # False: users delete it and nothing is missed
    written: tuple[Config, Config] | None = None  # config.json at full size and tiny, where it is of another class
    original: bool = False  # names of latent-diffusion in the file
    image: tuple[int, int] = (0, 0)  # width of the picture's tokens that a UNet resamples, at full size and tiny

    def config(self, size: Size) -> Config:
        """The configuration at this size; `deep` is `tiny` where depth was never cut."""
        return self.full if size == "full" else (self.deep or self.tiny) if size == "deep" else self.tiny

    def stated(self, size: Size) -> Config:
        """What config.json says beside class and version."""
        return self.config(size) if self.written is None else self.written[size != "full"]

    def listed(self) -> list[str]:
        """Its entry in model_index.json."""
        return [self.named[0] or self.library, self.named[1] or self.kind]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's folder. The last of its files wins for the pad token: special_tokens_map.json.

    T5Tokenizer is written as a sentencepiece model alone, T5TokenizerFast with tokenizer.json: both are out there.
    """

    folder: str
    kind: Literal["CLIPTokenizer", "T5Tokenizer", "T5TokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast"]
    length: int = 77
    pad: str = "<|endoftext|>"
    entries: int = 0  # at full size; 0: 49408 of CLIP, 32000 of T5 (UMT5 has more), 151643 of Qwen


@dataclass(frozen=True)
class Layout:
    """A published folder, or the folder of a single network (`pipeline` is empty then)."""

    name: str
    pipeline: str | list[str]
    parts: tuple[Network, ...]
    scheduler: Mapping[str, object] = field(default_factory=dict)  # with _class_name; empty: there is none
    tokens: tuple[Tokens, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)  # folder of an image processor -> class as written
    index: Mapping[str, object] = field(default_factory=dict)  # further keys of model_index.json
    version: str = ""
    crop: int = 224  # of the image processors
    file: str = ""  # the one file that it is published as, under the names of its own repository
    ways: Mapping[str, Config] = field(default_factory=dict)  # what else they say, by folder

    def part(self, folder: str) -> Network:
        """The network in a folder; KeyError names those that are there."""
        for part in self.parts:
            if part.folder == folder:
                return part
        raise KeyError(f"{self.name} has no {folder!r}, only {[part.folder for part in self.parts]}")
