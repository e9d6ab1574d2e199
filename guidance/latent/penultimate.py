# SPDX-License-Identifier: Apache-2.0
"""CLIP text encoders as larger families hear them: the layer before the last, not normalised, and one pooled vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guidance.latent.loading import ModelFolder
from guidance.latent.text import Rows, ids_of


class Penultimate:
    """One encoder. `kind` with a projection also gives the projected state of the first end of text."""

    def __init__(
        self,
        folder: ModelFolder,
        number: str,  # of the folders: "", "_2"
        kind: str,
        dtype: torch.dtype,
        device: torch.device,
        skip: int = 0,
    ) -> None:
        self.tokenizer = folder.tokenizer(f"tokenizer{number}", "CLIPTokenizer")
        self.net = folder.encoder(f"text_encoder{number}", kind, dtype).to(device)
        self.layer = -(skip + 2)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States [K, 77, D] and pooled [K, P], which is not projected where the class has no projection."""
        device = next(self.net.parameters()).device
        said = self.net(ids_of(self.tokenizer, texts).to(device), output_hidden_states=True)
        return said.hidden_states[self.layer], said[0] if "text_embeds" in said else said.pooler_output


class TwoClips:
    """SDXL's text: the states of both side by side, the second's pooled vector; nothing said may be plain zeros."""

    def __init__(
        self, folder: ModelFolder, dtype: torch.dtype, device: torch.device, skip: int = 0, zeros: bool = True
    ) -> None:
        self.first = Penultimate(folder, "", "CLIPTextModel", dtype, device, skip)
        self.second = Penultimate(folder, "_2", "CLIPTextModelWithProjection", dtype, device, skip)
        self.zeros = zeros

    def __call__(self, texts: Sequence[str]) -> Rows:
        (a, _), (b, pooled) = self.first(texts), self.second(texts)
        text = torch.cat([a, b], -1)
        if self.zeros:
            said = torch.tensor([bool(one) for one in texts], device=text.device)
            text, pooled = text * said[:, None, None], pooled * said[:, None]
        return {"text": text, "pooled": pooled}
