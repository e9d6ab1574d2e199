# SPDX-License-Identifier: Apache-2.0
"""Stable Video Diffusion: clips that begin with the prompt's picture; no text.

Its preconditioned network in sigmas (Karras et al. 2022) is v-prediction at alpha_bar = 1 / (1 + sigma^2), told
ln(sigma) / 4 (guidance/latent/tables.py). The picture comes in twice: as CLIP sees it, and as a latent, unscaled, of
the picture with a little noise, beside every frame. `null` is neither. Its own sampler guides frame by frame, from 1 at
the first to 3 at the last; how much a rule guides is the rule's business, and all rules here guide frames alike.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from dreamlab.core import pixels
from dreamlab.core.errors import ModelError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Prompt, Reference
from guidance.latent.clips import ClipModel, ClipSettings
from guidance.latent.codec import Codec
from guidance.latent.loading import ModelFolder
from guidance.latent.pictured import Pictured
from guidance.latent.pictures import before, followed, normalised, softened
from guidance.latent.tables import Clock, sigma_clock
from guidance.latent.text import Rows, TextEncoder

TOLD = 3  # numbers beside the picture: frames per second, motion, noise on the picture


@dataclass(frozen=True)
class PicturedSettings(ClipSettings):
    """How the picture is shown to the networks of Stable Video Diffusion."""

    augment: float = setting(0.02, low=0, high=1, help="deviation of the noise on the picture it begins with")
    picture_seed: int = setting(0, low=0, help="of that noise, which stays the same for a run")
    backdrop: float = setting(1.0, low=0, high=1, help="grey behind the picture's object; 1 is white")


class PicturedVideo(Pictured, ClipModel):
    """Frames that follow the prompt's picture: what Stable Video Diffusion and SV3D have in common."""

    conditions: ClassVar[frozenset[str]] = frozenset({"text", "null"})  # "text" is the picture
    trained_at: ClassVar[int] = 576
    net_kinds: ClassVar[tuple[str, ...]] = ("UNetSpatioTemporalConditionModel",)

    settings: PicturedSettings

    def __init__(self, settings: Any, source: ModelFolder) -> None:
        super().__init__(settings, source)
        net = source.config(self.net_part)
        self.check_vector(*(int(cast(int, net[f"{name}_dim"])) for name in VECTOR))

    @abstractmethod
    def check_vector(self, width: int, each: int) -> None:
        """Whether the network is told `width` numbers beside the picture, `each` being the waves of one."""

    def clock_of(self, source: ModelFolder) -> Clock:
        own, where = source.config("scheduler"), source.path / "scheduler"
        said = tuple(own.get(name) for name in ("prediction_type", "timestep_type"))
        if said != ("v_prediction", "continuous"):
            raise ModelError(f"{where}: {said[0]} at {said[1]} times; this family predicts v at continuous ones")
        low, high = (float(cast(float, own[name])) for name in ("sigma_min", "sigma_max"))
        return sigma_clock(low, high)

    # ---- the picture -------------------------------------------------------------------------------------------------
    def text_encoder(self, device: torch.device) -> TextEncoder:
        raise ModelError(f"{self.source.path}: hears no text")

    def hear(self, prompts: Sequence[Prompt]) -> None:
        """Nothing of a prompt is text to it."""

    def spoken(self, prompt: Prompt) -> Mapping[str, Rows]:
        rows = self.seen_pictures[followed(prompt, self.takes)]
        none = {name: row if name == "told" else torch.zeros_like(row) for name, row in rows.items()}
        return {"text": rows, "null": none}

    def look_at(self, given: Reference) -> Mapping[str, Tensor]:
        """What CLIP sees, and the latent beside every frame."""
        s = self.settings
        picture = before(given, s.backdrop).to(self.device)
        tower = self.source.encoder("image_encoder", "CLIPVisionModelWithProjection", self.dtype).to(self.device)
        small = softened(pixels.encode(picture), cast(int, tower.config.image_size))  # type: ignore[union-attr]
        seen = tower(normalised((small + 1) / 2).to(self.dtype)).image_embeds[:, None]
        first = self.seen(picture)
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(s.picture_seed)).to(first)
        beside = self.codec.encode(first + s.augment * noise, self.ladder) / self.codec.scale
        return {"seen": seen, "given": beside}

    def clips(self, z: Tensor, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Clips with the picture's latent beside every frame, frames before channels here; and what CLIP saw."""
        frames = self.settings.frames
        made = torch.cat([z, rows["given"].to(z.dtype)], 1).unflatten(0, (-1, frames))
        return made, rows["seen"][::frames].to(z.dtype)


class StableVideo(PicturedVideo):
    """Clips that begin with the prompt's picture."""

    paper: ClassVar[str] = "Blattmann et al. 2023, arXiv:2311.15127"
    takes: ClassVar[str] = "svd"
    default: ClassVar[str] = "svd-xt"
    vae_kind: ClassVar[str] = "AutoencoderKLTemporalDecoder"

    @dataclass(frozen=True)
    class Settings(PicturedSettings):
        model: str = setting("svd-xt", help="a name of `dreamlab models ls` (svd: 14 frames), or the path of a folder")
        frames: int = setting(25, low=2, high=64, help="of a clip; trained with 25 (svd-xt) or 14 (svd)")
        fps: int = setting(7, low=2, high=60, help="frames per second of the clip")
        motion: int = setting(127, low=1, high=255, help="its motion bucket: how much moves")

    settings: Settings

    def check_vector(self, width: int, each: int) -> None:
        if width != TOLD * each:
            said = f"is told {width // each} numbers beside the picture, not {TOLD}"
            raise ModelError(f"{self.source.path}: {said}; is it an SV3D? Its orbits are not clips")

    def autoencoder(self) -> Codec:
        made = super().autoencoder()
        return TemporalCodec(made.vae, made.tiny, made.way, made.floor).of(self.settings.frames)

    def look_at(self, given: Reference) -> Mapping[str, Tensor]:
        """Also the numbers that go with the picture."""
        s = self.settings
        told = torch.tensor([[s.fps - 1, s.motion, s.augment]], device=self.device)
        return {**super().look_at(given), "told": told}

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        frames, rows = self.settings.frames, condition.rows
        clips, seen = self.clips(z, rows)
        told = rows["told"][::frames].to(z.dtype)
        said: Tensor = self.net(clips, time[::frames], seen, told, return_dict=False)[0]
        return said.flatten(0, 1)


VECTOR = ("projection_class_embeddings_input", "addition_time_embed")


class TemporalCodec(Codec):
    """An autoencoder of pictures whose decoder smooths a clip."""

    frames: int = 1

    def of(self, frames: int) -> TemporalCodec:
        self.frames = frames
        return self

    def decode(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            made: Tensor = self.vae.decode((z / self.scale).to(self.vae.dtype), num_frames=self.frames).sample
        return made.float()
