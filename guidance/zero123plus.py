# SPDX-License-Identifier: Apache-2.0
"""Zero123++: six views of the object of a picture in one picture, three rows of two, from cameras that are fixed.

It is Stable Diffusion 2's network without words. The given picture comes in twice: its embedding is added to the empty
text, more to later places of it (77 numbers of the folder), and by attention. Each self-attention looks at its own
pixels and at those that the same layer had of the given picture's latent, noised as much; so a call is two passes.
The network sees (z - 0.22) 0.75 of latents z of pictures that are 0.5 / 0.8 as strong; the given picture is
scaled by its own processor and its latent not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core import pixels
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard, Stand
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from guidance.latent.joint import attended
from guidance.latent.loading import ModelFolder
from guidance.latent.memory import Ladder
from guidance.latent.model import ModelSettings
from guidance.latent.pictured import FixedViews
from guidance.latent.pictures import before, clip_pixels, followed
from guidance.latent.text import ClipText, Rows, TextEncoder

GRAY = 127 / 255  # the background that it sees and paints
TILES = (3, 2)  # rows and columns of views, in the order of AZIMUTHS row by row
AZIMUTHS = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0)  # from the given picture's, as the world counts them
ELEVATIONS = {"v1.1": (30.0, -20.0), "v1.2": (20.0, -10.0)}  # in turn; the world's, whatever the picture's is
VERSIONS = ("auto", *ELEVATIONS)
SHIFT, SCALE, CONTRAST = 0.22, 0.75, 0.5 / 0.8
NOISES = 64  # of the given picture's latent, one for each time in turn
WORDS = 77
WAY = {"size": 320, "image_mean": [0.5] * 3, "image_std": [0.8] * 3}  # of a folder that does not say


def version_of(settings: Zero123Plus.Settings) -> str:
    """1.2 unless a setting or the model's name says 1.1."""
    if settings.version != "auto":
        return settings.version
    return "v1.1" if "1.1" in settings.model else "v1.2"


class Zero123Plus(FixedViews):
    """The object of a picture from six fixed cameras at once."""

    paper: ClassVar[str] = "Shi et al. 2023, arXiv:2310.15110"
    takes: ClassVar[str] = "zero123plus"
    default: ClassVar[str] = "zero123plus"
    embedded: ClassVar[str] = "toybox-novel"
    conditions: ClassVar[frozenset[str]] = frozenset({"text", "null"})  # "text" is the picture; it hears no words
    together: ClassVar[int] = TILES[0] * TILES[1]
    tiles: ClassVar[tuple[int, int]] = TILES
    glance: ClassVar[int] = 320
    trained_at: ClassVar[int] = 320  # pixels of one view

    @dataclass(frozen=True)
    class Settings(ModelSettings):
        model: str = setting("zero123plus", help="a name of `dreamlab models ls`, or the path of a folder")
        version: str = setting("auto", choices=VERSIONS, help="which cameras it was trained with; auto: by its name")
        picture_seed: int = setting(0, low=0, help="of the noise on the given picture, which stays the same for a run")

    settings: Settings

    @classmethod
    def card(cls, settings: Any) -> GuidanceCard:
        heights = ELEVATIONS[version_of(settings)]
        stands = tuple(Stand(azimuth, heights[i % 2]) for i, azimuth in enumerate(AZIMUTHS))
        return replace(super().card(settings), whole=True, folds=cls.together, stands=stands, backdrop="gray")

    def __init__(self, settings: Settings, source: ModelFolder) -> None:
        super().__init__(settings, source)
        self.ladder = Ladder(1, settings.rows, settings.recompute)
        self.referring = Referring()
        ramp = source.index().get("ramping_coefficients")
        if not isinstance(ramp, list) or len(ramp) != WORDS:
            said = "no" if not isinstance(ramp, list) else len(ramp)
            raise ModelError(f"{source.path}: model_index.json has {said} ramping_coefficients, and {WORDS} are needed")
        self.ramp = torch.tensor(ramp)
        if self.clock.form != "v":
            raise ModelError(f"{source.path / 'scheduler'}: predicts {self.clock.form}; Zero123++ predicts v")

    def load(self) -> None:
        super().load()
        if self.module.config.class_embed_type is not None or self.module.config.in_channels != 4:
            raise ModelError(f"{self.source.path}: its U-Net is told more than a picture; is it Zero123++?")
        self.module.set_attn_processor(
            {
                name: ReferenceAttention(self.referring, name) if "attn1" in name else other
                for name, other in self.module.attn_processors.items()
            }
        )

    # ---- pictures ----------------------------------------------------------------------------------------------------
    def encode(self, rgb: Tensor) -> Tensor:
        """[6 G, H, W, 3] -> [G, 4, h, w]: every six views are one picture."""
        self.check_views(len(rgb))
        z = self.codec.encode(pixels.tiled(self.seen(rgb), *TILES) * CONTRAST, self.ladder)
        return (z - SHIFT) * SCALE

    def decode(self, z: Tensor) -> Tensor:
        made = self.codec.decode(z / SCALE + SHIFT) / CONTRAST
        return pixels.decode(pixels.untiled(made, *TILES)).clamp(0, 1)

    def check_views(self, count: int) -> None:
        if count % self.together:
            raise InputError(f"{self.source.path}: looks at {self.together} views together, and {count} came")

    # ---- what it is told ---------------------------------------------------------------------------------------------
    def text_encoder(self, device: torch.device) -> TextEncoder:
        return ClipText(self.source, self.dtype, device)

    def hear(self, prompts: Sequence[Prompt]) -> None:
        """Only nothing."""
        self.heard.hear([""])

    def look_at(self, given: Reference) -> Mapping[str, Tensor]:
        """The empty text with and without the picture's embedding, and the latents of the picture and of a gray one."""
        self.heard.hear([""])
        shown, words = before(given, GRAY).to(self.device), self.heard[""]["text"].float()
        tower = self.source.encoder("vision_encoder", "CLIPVisionModelWithProjection", self.dtype).to(self.device)
        side = int(tower.config.image_size)  # type: ignore[union-attr, arg-type]
        embedding = tower(clip_pixels(shown, side).to(self.dtype)).image_embeds.float()
        picture = processed(shown, self.source)
        both = torch.cat([picture, torch.zeros_like(picture)])
        given_latent, gray_latent = (self.codec.encode(both, self.ladder) / self.codec.scale).split(1)
        noise = torch.randn(
            NOISES, *given_latent.shape[1:], generator=torch.Generator().manual_seed(self.settings.picture_seed)
        )
        told = words + self.ramp.to(self.device)[:, None] * embedding[:, None]
        kept = {"told": told, "words": words, "given": given_latent, "gray": gray_latent}
        return kept | {"noise": noise.to(self.device)}

    def spoken(self, prompt: Prompt) -> Mapping[str, Rows]:
        kept = self.seen_pictures[followed(prompt, "zero123plus")]
        return {
            "text": {"text": kept["told"], "beside": kept["given"]},
            "null": {"text": kept["words"], "beside": kept["gray"]},
        }

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        self.check_views(len(cameras))
        first = torch.arange(0, len(cameras), self.together)
        made = super().condition(prompt, cameras[first], frames.take(first.tolist()))
        shared = {"noise": self.seen_pictures[followed(prompt, "zero123plus")]["noise"]}
        return {name: replace(one, shared=shared) for name, one in made.items()}

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The given picture, noised as the views are, is looked at first; what it says itself is dropped."""
        words, given, index = condition.rows["text"].to(z.dtype), condition.rows["beside"], time.long()
        noise = condition.shared["noise"][index % NOISES]
        with self.referring.first():
            self.net(self.table.add_noise(given, noise, index).to(z.dtype), time, words, return_dict=False)
        said: Tensor = self.net(z, time, words, return_dict=False)[0]
        return said


def processed(shown: Tensor, source: ModelFolder) -> Tensor:
    """[1, H, W, 3] -> [1, 3, S, S] as the folder's processor makes the given picture ready for the autoencoder."""
    place = source.path / "feature_extractor_vae"
    way = {**WAY, **(source.processor(place.name) if place.is_dir() else {})}
    size: Any = way["size"]
    side = int(size.get("shortest_edge") or size.get("height") or 0) if isinstance(size, dict) else int(size)
    mean, std = (torch.tensor(cast(list[float], way[f"image_{name}"])).to(shown) for name in ("mean", "std"))
    if side <= 0 or side % 8 or mean.shape != (3,) or std.shape != (3,) or not bool((std > 0).all()):
        raise ModelError(f"{place}: size {size}, mean {way['image_mean']}, std {way['image_std']}: not of a picture")
    small = F.interpolate(shown.permute(0, 3, 1, 2), (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return (small - mean[:, None, None]) / std[:, None, None]


class Referring:
    """What each self-attention had of the given picture, between the two passes of a call."""

    def __init__(self) -> None:
        self.noting, self.noted = False, dict[str, Tensor]()

    @contextmanager
    def first(self) -> Iterator[None]:
        """The pass inside the block is the given picture's."""
        self.noting = True
        try:
            yield
        finally:
            self.noting = False


class ReferenceAttention:
    """Self-attention of the views that looks at the given picture's tokens, too."""

    def __init__(self, referring: Referring, name: str) -> None:
        self.referring, self.name = referring, name

    def __call__(
        self,
        attn: Any,  # diffusers' Attention
        hidden_states: Tensor,  # [M, pixels, C]
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        if self.referring.noting:
            self.referring.noted[self.name] = hidden_states
            return attended(attn, hidden_states, hidden_states)
        seen = torch.cat([hidden_states, self.referring.noted.pop(self.name)], 1)
        return attended(attn, hidden_states, seen)
