# SPDX-License-Identifier: Apache-2.0
"""Self-attention over the views of a group (MVDream, Shi et al. 2023, section 3.1): rows (b f) l c see b (f l) c."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.toybox.training.sd.shapes import Model


class JointViews:
    """A processor for `attn1` of a diffusers U-Net; rows of one group follow one another."""

    def __init__(self, views: int) -> None:
        self.views = views

    def __call__(
        self,
        attn: Model,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        rows = hidden_states.unflatten(0, (-1, self.views)).flatten(1, 2)
        q, k, v = (
            project(rows).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        seen = F.scaled_dot_product_attention(q, k, v, scale=attn.scale).transpose(1, 2).flatten(2)
        mixed: Tensor = attn.to_out[0](seen)
        return mixed.reshape(hidden_states.shape)


def join(unet: nn.Module, views: int) -> nn.Module:
    """Let every `attn1` see all views of a group, in place."""
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            model: Model = module
            model.set_processor(JointViews(views))
    return unet
