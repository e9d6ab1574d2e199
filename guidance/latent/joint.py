# SPDX-License-Identifier: Apache-2.0
"""Several views of one object in one network (MVDream, Shi et al. 2023, arXiv:2308.16512): self-attention over all of
their pixels, and a camera for each, on the U-Net that diffusers has.

Its embedding of classes takes the camera's 16 numbers; the views of a group become one sequence in `attn1` and are
rows again behind it. Folders that keep the original class's names are read by the table of ldm_names.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import ModelError
from guidance.latent import inferred, ldm_names
from guidance.latent.built import built, filled
from guidance.latent.ip_files import with_pictures
from guidance.latent.loading import ModelFolder
from guidance.latent.tensor_files import Tensors, opened

OLD_CLASS = "MultiViewUNetModel"
CAMERA = 16
# Ours (+Y up, the front at +Z) to theirs (+Z up, the front at +X): x, y, z -> z, x, y. The camera's own axes are
# OpenGL's in both.
TURN = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


class ViewCount:
    """How many rows in a row are views of one object, for the call at hand."""

    def __init__(self) -> None:
        self.count = 1


class JointAttention:
    """Self-attention over the pixels of all views of a group. The layers are called as modules: an adapter's hooks on
    them are heard."""

    def __init__(self, views: ViewCount) -> None:
        self.views = views

    def __call__(
        self,
        attn: Any,  # diffusers' Attention
        hidden_states: Tensor,  # [groups views, pixels, C]
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        count = self.views.count
        x = hidden_states.unflatten(0, (-1, count)).flatten(1, 2)
        return attended(attn, x, x).unflatten(1, (count, -1)).flatten(0, 1)


def attended(attn: Any, x: Tensor, seen: Tensor) -> Tensor:
    """What an attention of diffusers makes of tokens [B, L, C] that look at `seen` [B, S, C]."""
    q, k, v = (
        layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for layer, tokens in ((attn.to_q, x), (attn.to_k, seen), (attn.to_v, seen))
    )
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    said: Tensor = attn.to_out[1](attn.to_out[0](mixed))
    return said


def joined(net: Any, views: ViewCount, where: str) -> nn.Module:
    """The U-Net with its views joined; ModelError if it is not told a camera."""
    config = net.config
    if config.class_embed_type != "projection" or config.projection_class_embeddings_input_dim != CAMERA:
        raise ModelError(
            f"{where}: its U-Net is not told a camera, so it is not of MVDream's kind; is it Stable Diffusion?"
        )
    own = JointAttention(views)
    net.set_attn_processor({n: own if "attn1" in n else other for n, other in net.attn_processors.items()})
    made: nn.Module = net
    return made


def told(cameras: Cameras, turn_deg: float = 0.0) -> Tensor:
    """[B, 16] camera to world as they were trained with, row by row: at distance one. `turn_deg` is the azimuth that
    counts as the front."""
    pose = cameras.camera_to_world
    turn = pose.new_tensor(TURN)
    if turn_deg:
        angle = torch.deg2rad(pose.new_tensor(turn_deg))
        cos, sin, none, one = angle.cos(), angle.sin(), angle.new_zeros(()), angle.new_ones(())
        back = torch.stack([cos, none, -sin, none, one, none, sin, none, cos]).reshape(3, 3)
        turn = turn @ back
    made = torch.zeros_like(pose)
    made[:, :3, :3] = turn @ pose[:, :3, :3]
    made[:, :3, 3] = F.normalize(pose[:, :3, 3] @ turn.T, dim=-1)
    made[:, 3, 3] = 1
    return made.flatten(1)


@dataclass(frozen=True)
class ConvertedFolder(ModelFolder):
    """A folder whose U-Net keeps the original class and names; the rest is ordinary (ashawkey's conversions)."""

    def config(self, part: str) -> Mapping[str, Any]:
        if part != "unet":
            return super().config(part)
        said, found = super().config(part), inferred.unet(ldm_names.unet(self._file().shapes), 32)
        width, heads = (int(said.get(name, -1)) for name in ("num_head_channels", "num_heads"))
        widths: Any = found["block_out_channels"]
        return found | {"attention_head_dim": [w // width for w in widths] if width > 0 else heads}

    def network(self, part: str, kinds: Sequence[str], dtype: torch.dtype) -> nn.Module:
        if part != "unet":
            return super().network(part, kinds, dtype)
        file = self._file()
        state = file.read(list(file.shapes))
        net = filled(built("unet", self.config("unet")), ldm_names.unet(state), dtype, str(file.path))
        pictures = ldm_names.image_prompt(state)
        return with_pictures(net, *pictures, str(file.path)) if pictures[0] else net

    def _file(self) -> Tensors:
        folder = self.path / "unet"
        found = sorted(folder.glob("diffusion_pytorch_model*.safetensors"), key=lambda path: len(path.name)) or [
            folder / self.legacy
        ]
        return opened(found[0], bool(self.legacy) and found[0].name == self.legacy)


def is_converted(folder: ModelFolder) -> bool:
    return folder.has("unet") and folder.config("unet").get("_class_name") == OLD_CLASS
