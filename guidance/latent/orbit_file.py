# SPDX-License-Identifier: Apache-2.0
"""The file that an SV3D is published as: the network, the picture's tower and the autoencoder that encodes pictures,
under the names of generative-models.

The network is Stable Diffusion 2's with a second part in every block that mixes frames (`time_stack`), and how much of
it (`time_mixer`). The decoder in `first_stage_model`, which nothing here is encoded by, is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamlab.core.files import Json
from guidance.latent import inferred, ldm_names
from guidance.latent.built import built, filled
from guidance.latent.single_file import EXACT, SingleFile

ORBIT_PLACES = {
    "unet": ldm_names.UNET,
    "vae": "conditioner.embedders.1.encoder.",
    "image_encoder": "conditioner.embedders.0.open_clip.model.visual.",
}
WAVES = 256  # of one number, whatever the widths
SIDE, FRAMES = 72, 21  # of its latents


@dataclass(frozen=True)
class OrbitFile(SingleFile):
    """An SV3D in one file, with the answers of a folder."""

    def filled(self, part: str, dtype: torch.dtype) -> nn.Module:
        kind = "video_unet" if part == "unet" else part
        return filled(built(kind, self.config(part)), self.state(part), dtype, f"{self.path} ({part})")

    def _prefix(self, part: str) -> str | None:
        place = ORBIT_PLACES.get(part, "")
        return place if place and any(name.startswith(place) for name in self.file.shapes) else None

    def _renamed(self, part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renames: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
            "unet": video_unet,
            "vae": ldm_names.vae,
            "image_encoder": ldm_names.clip_vision,
        }
        return renames[part](ldm_names.under(state, self._there(part)))

    def _config(self, part: str, state: Mapping[str, Tensor]) -> Json:
        if part == "unet":
            return inferred.video_unet(state, SIDE, FRAMES, WAVES)
        return inferred.vae(state, 8 * SIDE, 0.18215) if part == "vae" else inferred.vision(state, EXACT)

    def _scheduler(self) -> Json:
        """The sigmas that its sampler goes through, of Stable Video Diffusion."""
        return {
            "_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction", "timestep_type": "continuous",
            "sigma_min": 0.002, "sigma_max": 700.0, "use_karras_sigmas": True, "num_train_timesteps": 1000,
        }  # fmt: skip


def video_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors by the names of UNetSpatioTemporalConditionModel."""
    table = ldm_names.modules(state, ldm_names.layers_of(state))
    return {_renamed(old, table): value for old, value in state.items()}


def _renamed(old: str, table: Mapping[str, str]) -> str:
    """A residual block of frames has the names of one of pixels, within `time_stack`."""
    plain = ldm_names.renamed(old, table)
    block, found, rest = plain.partition(".attentions.")
    if found:
        rest = rest.replace(".time_stack.", ".temporal_transformer_blocks.")
        for there, here in (("0", "linear_1"), ("2", "linear_2")):
            rest = rest.replace(f".time_pos_embed.{there}.", f".time_pos_embed.{here}.")
        return f"{block}.attentions.{rest}"
    block, found, rest = plain.partition(".resnets.")
    if not found:
        return plain
    number, _, inner = rest.partition(".")
    if inner.startswith("time_mixer."):
        return plain
    side = "temporal_res_block" if inner.startswith("time_stack.") else "spatial_res_block"
    return f"{block}.resnets.{number}.{side}.{ldm_names.resnet(inner.removeprefix('time_stack.'))}"
