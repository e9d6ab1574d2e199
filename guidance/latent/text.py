# SPDX-License-Identifier: Apache-2.0
"""Texts as a pretrained model hears them: encoded once per run, after which the encoders are gone.

What is kept of a text is a row of each of a few tables (`text` [1, L, D], `pooled` [1, P], ...), which stay on the
device; a T5-XXL of 9.5 GB is in memory for one batch of captions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dreamlab.core.prompting import DIRECTIONS
from dreamlab.core.types import Prompt
from guidance.latent.loading import ModelFolder

Rows = Mapping[str, Tensor]  # of one text, [1, ...] each
GRID = "a 2 x 2 grid of views of {}"  # as BoostDream asks
VIEWED = {name: f"{{}}, {name} view" for name in DIRECTIONS}  # as threestudio words them


class TextEncoder(Protocol):
    """Encoders of a family, in memory."""

    def __call__(self, texts: Sequence[str]) -> Rows:
        """[K, ...] of K texts."""


class Heard:
    """The texts that a model has heard, as rows on its device; `load` brings its encoders into memory for a while."""

    def __init__(self, load: Callable[[torch.device], TextEncoder]) -> None:
        self._load, self._rows = load, dict[str, Rows]()
        self.device, self.times_loaded = torch.device("cpu"), 0

    def to(self, device: torch.device) -> None:
        self.device = device
        self._rows = {text: {n: row.to(device) for n, row in rows.items()} for text, rows in self._rows.items()}

    def hear(self, texts: Sequence[str]) -> None:
        """Encode those of the texts that are new, in one batch, and let go of the encoders."""
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if not new:
            return
        with torch.no_grad():
            encoder = self._load(self.device)
            self.times_loaded += 1
            encoded = encoder(new)
            del encoder
        for i, text in enumerate(new):
            self._rows[text] = {name: rows[i : i + 1].clone() for name, rows in encoded.items()}

    def forget(self) -> None:
        """For another run: what is encoded in another batch is another sum."""
        self._rows = {}

    def __getitem__(self, text: str) -> Rows:
        return self._rows[text]


def variants(prompt: Prompt, null: str) -> dict[str, str]:
    """The text of each condition; `null: negative` lets the unconditional half hear the negative prompt, as the
    libraries' pipelines do."""
    other = prompt.negative if null == "negative" else ""
    worded = {name: form.format(prompt.text) for name, form in VIEWED.items()}
    return {"text": prompt.text, "null": other, "negative": prompt.negative, "grid": GRID.format(prompt.text), **worded}


# ---- CLIP ------------------------------------------------------------------------------------------------------------
def ids_of(tokenizer: Any, texts: Sequence[str], length: int | None = None) -> Tensor:
    """[K, L] padded to the full length with the tokenizer's own pad, cut where it ends. No attention mask goes with it:
    the models were trained on the padding too."""
    longest = length or tokenizer.model_max_length
    said = tokenizer(list(texts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
    ids: Tensor = said.input_ids
    return ids


def cut(tokenizer: Any, text: str, length: int | None = None) -> str:
    """What of a text the model does not hear, because it is too long."""
    longest = length or tokenizer.model_max_length
    ids = tokenizer(text, truncation=False).input_ids
    return str(tokenizer.decode(ids[longest - 1 : -1])).strip() if len(ids) > longest else ""


class ClipText:
    """One CLIP encoder whose last hidden state, after the final normalisation, is the text (SD 1.5, SD 2.1)."""

    def __init__(self, folder: ModelFolder, dtype: torch.dtype, device: torch.device, skip: int = 0) -> None:
        self.tokenizer = folder.tokenizer("tokenizer", "CLIPTokenizer")
        self.net = folder.encoder("text_encoder", "CLIPTextModel", dtype).to(device)
        self.skip = skip

    def __call__(self, texts: Sequence[str]) -> Rows:
        ids = ids_of(self.tokenizer, texts).to(next(self.net.parameters()).device)
        if not self.skip:
            return {"text": self.net(ids).last_hidden_state}
        return {"text": skipped(self.net, ids, self.skip)}


def skipped(net: nn.Module, ids: Tensor, skip: int) -> Tensor:
    """The hidden state `skip` layers before the last, normalised (`clip_skip` of other programs)."""
    hidden = net(ids, output_hidden_states=True).hidden_states[-(skip + 1)]
    normalised: Tensor = net.final_layer_norm(hidden)  # type: ignore[operator]
    return normalised
