# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion that follows the prompt's picture beside its words: an IP-Adapter in its cross-attentions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from guidance.latent import ip_files
from guidance.latent.loading import ModelFolder
from guidance.latent.pictured import Pictured
from guidance.latent.pictures import before, clip_pixels
from guidance.latent.text import ids_of
from guidance.sd import StableDiffusion
from guidance.sdxl import StableDiffusionXL

ENCODER = "image_encoder"  # the folder beside the adapters that read it
STYLED = frozenset({"content", "style"})
WHITE = 1.0


class IPAdapter(Pictured, StableDiffusion):
    """A picture as a few more words of Stable Diffusion; it says what, not from where."""

    paper: ClassVar[str] = "Ye et al. 2023, arXiv:2308.06721; style: StyleTex, arXiv:2411.00399"

    @dataclass(frozen=True)
    class Settings(StableDiffusion.Settings):
        adapter: str = setting("ip-adapter-sd15", help="a file of IP-Adapter (base, plus, full-face), as `model`")
        image_encoder: str = setting("", help="folder of the encoder it reads; none: image_encoder beside the adapter")
        strength: float = setting(0.7, low=0, high=2, help="of the picture beside the words")
        content: str = setting("", help="what the picture shows, for rules that want its style alone")
        text_tower: str = setting(
            "", help="folder of the CLIP whose encoder it is, to take the content out of the style"
        )

    settings: Settings

    @classmethod
    def models(cls, settings: Any) -> tuple[tuple[str, str], ...]:
        return (*super().models(settings), (settings.adapter, "ip-adapter"))

    @classmethod
    def card(cls, settings: Any) -> GuidanceCard:
        card = super().card(settings)
        if bool(settings.content) != bool(settings.text_tower):
            raise RecipeError("ip-adapter: a style without its content needs both, content and text_tower")
        return replace(card, conditions=card.conditions | STYLED) if settings.content else card

    def __init__(self, settings: Any, source: ModelFolder) -> None:
        super().__init__(settings, source)
        place = adapter_of(settings.adapter)
        self.file = ip_files.read(place, place.name == settings.legacy)
        self.encoder_at = Path(settings.image_encoder) if settings.image_encoder else place.parent / ENCODER
        self._check_encoder()

    def _check_encoder(self) -> None:
        """Whether the encoder says what the adapter reads, before anything of it is in memory."""
        config = ModelFolder(self.encoder_at.parent).config(self.encoder_at.name)
        name = "projection_dim" if self.file.kind == ip_files.BASE else "hidden_size"
        if config.get(name) != self.file.width:
            raise ModelError(
                f"{self.encoder_at}: its {name} is {config.get(name)}, and {self.file.where} reads {self.file.width}; "
                "name the folder of the right one as `image_encoder`"
            )

    def load(self) -> None:
        super().load()
        self.module = ip_files.attach(self.module, self.file, self.settings.strength)

    def look_at(self, given: Reference) -> Mapping[str, Tensor]:
        """Its rows, and those of no picture."""
        encoder = ModelFolder(self.encoder_at.parent, self.settings.legacy).encoder(
            self.encoder_at.name, "CLIPVisionModelWithProjection", self.dtype
        )
        encoder = encoder.to(self.device)
        side = ModelFolder(self.encoder_at.parent).config(self.encoder_at.name)["image_size"]
        pixels = clip_pixels(before(given, WHITE).to(self.device), side)
        seen, nothing = ip_files.embeds(encoder, self.file.kind, pixels.to(self.dtype))
        style = {"style": seen - self._content_in(seen)} if self.settings.content else {}
        return {"seen": seen, "nothing": nothing, **style}

    def _content_in(self, seen: Tensor) -> Tensor:
        """The part of a picture's embedding along that of its content's text, (f . c) c / |c|^2 (StyleTex)."""
        if self.file.kind != ip_files.BASE:
            raise ModelError(f"{self.file.where}: a style without its content needs the base adapter: one embedding")
        place = Path(self.settings.text_tower)
        folder = ModelFolder(place.parent, self.settings.legacy)
        net: Any = folder.encoder(place.name, "CLIPTextModelWithProjection", self.dtype).to(self.device)
        tokenizer = folder.tokenizer(place.name, "CLIPTokenizer")
        along = net(ids_of(tokenizer, [self.settings.content]).to(self.device)).text_embeds[:, None]
        if along.shape[-1] != seen.shape[-1]:
            said = f"its text is {along.shape[-1]} numbers, the adapter's picture {seen.shape[-1]}"
            raise ModelError(f"{place}: {said}; name the CLIP that the image encoder is of")
        share = (seen * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True)
        return share * along

    def texts(self, prompt: Prompt) -> dict[str, str]:
        more = {"content": self.settings.content, "style": prompt.text} if self.settings.content else {}
        return {**super().texts(prompt), **more}

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        if prompt.image is None:
            raise InputError("ip-adapter: the prompt has no picture; give one with --image")
        more = super().told(prompt, cameras, frames).get("", {})
        tables = self.seen_pictures[prompt.image]
        rows = {name: row.expand(len(cameras), *row.shape[1:]) for name, row in tables.items()}
        blank = {**more, "image": rows["nothing"]}
        style = {"style": {**more, "image": rows["style"]}, "content": blank} if "style" in rows else {}
        return {"": {**more, "image": rows["seen"]}, "null": blank, "negative": blank, **style}

    def beside(self, z: Tensor, time: Tensor, condition: Condition, told: Mapping[str, Any]) -> dict[str, Any]:
        given = super().beside(z, time, condition, told)
        image = [condition.rows["image"].to(z.dtype)]
        return {**given, "added_cond_kwargs": {**given.get("added_cond_kwargs", {}), "image_embeds": image}}


class IPAdapterXL(IPAdapter, StableDiffusionXL):
    """A picture as a few more words of Stable Diffusion XL."""

    paper: ClassVar[str] = "Ye et al. 2023, arXiv:2308.06721"

    @dataclass(frozen=True)
    class Settings(IPAdapter.Settings, StableDiffusionXL.Settings):
        model: str = setting("sdxl", help="a name of `dreamlab models ls`, or the path of a folder or file")
        tiny: str = setting("taesdxl", help="the tiny autoencoder, as `model`; for hybrid and tiny")
        adapter: str = setting("ip-adapter-sdxl", help="a file of IP-Adapter (base, plus, full-face), as `model`")

    settings: Settings


def adapter_of(name: str) -> Path:
    """The file of an adapter; of the registry's it lies in a folder with its encoder."""
    from dreamlab.hub import located

    place = located(name, "ip-adapter")
    if place.is_file():
        return place
    found = sorted(place.rglob("ip-adapter*.safetensors"))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(place)) for path in found[:3]) or "none"
        raise ModelError(f"{place}: {len(found)} files of IP-Adapter in it ({names}); give the path of one")
    return found[0]
