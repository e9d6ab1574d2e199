# SPDX-License-Identifier: Apache-2.0
"""Texts by Qwen3, a language model: the text as one message of a user, and hidden states of some of its layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guidance.latent.loading import ModelFolder
from guidance.latent.text import Rows


class QwenText:
    """States [K, length, n D] of the layers said, side by side, and the mask of the message."""

    def __init__(
        self,
        folder: ModelFolder,
        kind: str,
        dtype: torch.dtype,
        device: torch.device,
        *,
        layers: tuple[int, ...],  # of hidden states, of which 0 are the embeddings
        length: int,
        thinking: bool,  # whether the answer that would follow begins with room to think
    ) -> None:
        self.tokenizer = folder.tokenizer("tokenizer", "Qwen2Tokenizer")
        self.net = folder.encoder("text_encoder", kind, dtype).to(device)
        self.layers, self.length, self.thinking = layers, length, thinking

    def __call__(self, texts: Sequence[str]) -> Rows:
        said = self.tokenizer(
            [self.asked(text) for text in texts], padding="max_length", max_length=self.length, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        device = next(self.net.parameters()).device
        ids, mask = said.input_ids.to(device), said.attention_mask.to(device)
        states: Sequence[Tensor] = self.net(
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        ).hidden_states
        return {"text": torch.cat([states[layer] for layer in self.layers], -1), "mask": mask}

    def asked(self, text: str) -> str:
        message = [{"role": "user", "content": text}]
        how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": self.thinking}
        return str(self.tokenizer.apply_chat_template(message, **how))
