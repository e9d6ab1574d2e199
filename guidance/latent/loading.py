# SPDX-License-Identifier: Apache-2.0
"""Folders of pretrained models, as diffusers and transformers lay them out, read without the network and without trust.

Neither library raises when a tensor is missing: it is left as it was drawn, a line is printed, and the run optimises
towards noise. So every part is loaded with its report, and a report that is not empty ends here. Weights are read from
safetensors; a pickle only where the user names that one file, and then as plain tensors (`weights_only`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from guidance.latent.built import PRECISE, partly_precise

INDEX = "model_index.json"
NEEDS = "needs diffusers and transformers: pip install 'dreamlab[models]'"
# Classes of other repositories that call one of the library's in another way, and have its tensors.
SAME = {"SV3DUNetSpatioTemporalConditionModel": "UNetSpatioTemporalConditionModel"}
MOST_CONFIG = 1 << 20  # bytes of a configuration


class Loader(Protocol):
    """A class of either library that reads its part of a folder."""

    def from_pretrained(self, place: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]: ...


@dataclass(frozen=True)
class ModelFolder:
    """A model as a folder with one sub-folder for each part."""

    path: Path
    legacy: str = ""  # the one pickled file that may be read; several in several parts with commas

    @property
    def inner(self) -> ModelFolder:
        """The model itself, without what is merged into it."""
        return self

    def has(self, part: str) -> bool:
        return (self.path / part).is_dir()

    def index(self) -> Mapping[str, Any]:
        """What its model_index.json says: which class each part is of."""
        return self._json(self.path / INDEX)

    def config(self, part: str) -> Mapping[str, Any]:
        """The configuration of a network or of a scheduler."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        return self._json(self.path / part / name)

    def processor(self, part: str) -> Mapping[str, Any]:
        """What is done to pictures before a network sees them."""
        return self._json(self.path / part / "preprocessor_config.json")

    def _json(self, path: Path) -> Mapping[str, Any]:
        if not path.is_file():
            raise ModelError(f"{path}: is not there; is {self.path} a whole folder of the kind that diffusers writes?")
        if path.stat().st_size > MOST_CONFIG:
            raise ModelError(f"{path}: {path.stat().st_size} bytes, which is no configuration")
        try:
            found = json.loads(path.read_text("utf-8"))
        except (ValueError, OSError) as error:
            raise ModelError(f"{path}: is not readable as JSON ({error})") from None
        if not isinstance(found, dict):
            raise ModelError(f"{path}: is not a JSON object")
        return found

    def network(self, part: str, kinds: Sequence[str], dtype: torch.dtype) -> nn.Module:
        """A network of diffusers: one of the classes `kinds`, as the folder says, in `dtype`, frozen."""
        own = self.config(part).get("_class_name")
        said = SAME.get(cast(str, own), own)
        if said not in kinds:
            raise ModelError(f"{self.path / part}: is a {said}; this family takes {' or '.join(kinds)}")
        with quiet():
            diffusers = library("diffusers")
            if said in PRECISE:
                state = self.tensors(part, dtype)
                return partly_precise(cast(str, said), self.config(part), state, dtype, str(self.path / part))
            return wholly(self._loaded(part, getattr(diffusers, cast(str, said)), dtype), dtype)

    def encoder(self, part: str, kind: str, dtype: torch.dtype) -> nn.Module:
        """A text or picture encoder of transformers."""
        with quiet():
            return self._loaded(part, getattr(library("transformers"), kind), dtype)

    def tokenizer(self, part: str, kind: str) -> Any:
        if not self.has(part):
            raise ModelError(f"{self.path / part}: no such folder; the tokenizer's files belong there")
        with quiet():
            try:
                return getattr(library("transformers"), kind).from_pretrained(
                    str(self.path / part), local_files_only=True
                )
            except (OSError, ValueError, TypeError) as error:
                raise ModelError(f"{self.path / part}: no tokenizer could be read ({first_line(error)})") from None

    def _loaded(self, part: str, kind: Loader, dtype: torch.dtype) -> nn.Module:
        place = self.path / part
        if not place.is_dir():
            raise ModelError(f"{place}: no such folder; the model is not whole")
        options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "output_loading_info": True}
        options |= {"use_safetensors": True} | self._variant(place, dtype)
        try:
            made, report = kind.from_pretrained(str(place), **options)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ModelError(f"{place}: could not be loaded ({first_line(error)})") from None
        if complaint := complaint_of(report):
            raise ModelError(f"{place}: {complaint}; what is missing would be random numbers, so it is refused")
        return frozen(made)

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """Every tensor of a part, as mapped from its files; for networks that their library cannot load by itself."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        place = self.path / part
        if not place.is_dir():
            raise ModelError(f"{place}: no such folder; the model is not whole")
        chosen = self._variant(place, dtype)
        if "use_safetensors" in chosen:
            raise ModelError(f"{place}: a pickle is not read here; convert it to safetensors")
        found: dict[str, Tensor] = {}
        for path in sorted(place.glob("*.safetensors")):
            if (".fp16" in path.name) == bool(chosen):
                try:
                    found |= load_file(path)
                except (OSError, SafetensorError) as error:
                    raise ModelError(f"{path}: could not be loaded ({first_line(error)})") from None
        return found

    def _variant(self, place: Path, dtype: torch.dtype) -> dict[str, Any]:
        """Which of its files: half precision where that is all there is, or is what will be used."""
        names = [path.name for path in place.iterdir()]
        full = [n for n in names if n.endswith((".safetensors", ".safetensors.index.json")) and ".fp16." not in n]
        half = [name for name in names if name.endswith((".fp16.safetensors", ".fp16.safetensors.index.json"))]
        if half and (not full or dtype == torch.float16):
            return {"variant": "fp16"}
        if not full:
            pickled = [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]
            if set(pickled) & {name.strip() for name in self.legacy.split(",")}:
                return {"use_safetensors": False}  # both libraries then read it as plain tensors
            holds = (
                f"; it holds the pickle {pickled[0]}: convert it, or name it in the setting `legacy`" if pickled else ""
            )
            raise ModelError(f"{place}: no .safetensors{holds}")
        return {}


def complaint_of(report: Mapping[str, Any]) -> str:
    """What a library's report says is wrong; empty where every tensor found its place."""
    parts = []
    for name, what in (("missing_keys", "missing"), ("unexpected_keys", "unknown"), ("mismatched_keys", "misshapen")):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get(name, ()))
        if keys:
            parts.append(f"{len(keys)} tensor{'s' * (len(keys) > 1)} {what} ({', '.join(keys[:3])})")
    if errors := report.get("error_msgs"):
        parts.append(first_line(errors if isinstance(errors, str) else errors[0]))
    return "; ".join(parts)


def wholly(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """All its parameters in `dtype`: without accelerate diffusers keeps the file's own where the first tensor that it
    looks at has its type already, as SD3's table of places has, which is float32 in every model."""
    for value in net.parameters():
        value.data = value.data.to(dtype)
    return net


def frozen(net: nn.Module) -> nn.Module:
    return net.requires_grad_(False).eval()


def first_line(error: object) -> str:
    """The beginning of what a library says, on one line."""
    return " ".join(str(error).split())[:300]


def library(name: str) -> Any:
    """diffusers or transformers; a model error that says how to get them."""
    try:
        return __import__(name)
    except ImportError:
        raise ModelError(f"a pretrained model {NEEDS}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Their warnings are about what is checked here: missing accelerate, reports of loading, progress bars."""
    loggers = []
    for name in ("diffusers", "transformers"):
        logging = library(name).utils.logging
        loggers.append((logging, logging.get_verbosity()))
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logging, level in loggers:
            logging.set_verbosity(level)
            logging.enable_progress_bar()
