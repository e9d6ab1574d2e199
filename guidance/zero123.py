# SPDX-License-Identifier: Apache-2.0
"""Zero123, Zero123-XL and Stable-Zero123: the object of a picture seen from elsewhere, told how far that is turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from guidance.latent.built import filled
from guidance.latent.ldm_names import under
from guidance.latent.loading import ModelFolder
from guidance.latent.model import ModelSettings
from guidance.latent.pictured import Pictured
from guidance.latent.pictures import before, clip_pixels
from guidance.latent.single_file import SingleFile
from guidance.latent.tensor_files import opened
from guidance.latent.text import Rows, TextEncoder

POSE = 4  # numbers of a pose
PROJECTIONS = {"clip_camera_projection": "proj.", "cc_projection": "projection."}  # folder -> names in its file
VARIANTS = ("auto", "zero123", "stable")
WHITE = 1.0  # the background it was trained before


class Zero123(Pictured):
    """The object of a picture seen from elsewhere. It is Stable Diffusion 1 with the picture's latent beside the noisy
    one, and one token in the text's place: the picture's embedding and the relative pose, through one linear layer."""

    paper: ClassVar[str] = "Liu et al. 2023, arXiv:2303.11328"
    takes: ClassVar[str] = "zero123"
    default: ClassVar[str] = "zero123-xl"
    embedded: ClassVar[str] = "toybox-novel"
    single_kinds: ClassVar[tuple[str, ...]] = ("zero123",)
    conditions: ClassVar[frozenset[str]] = frozenset({"text", "null"})  # "text" is the picture; it hears no words
    trained_at: ClassVar[int] = 256

    @dataclass(frozen=True)
    class Settings(ModelSettings):
        model: str = setting("zero123-xl", help="a name of `dreamlab models ls`, or the path of a folder or file")
        variant: str = setting("auto", choices=VARIANTS, help="stable: Stable-Zero123; auto: by the model's name")

    settings: Settings
    projection: nn.Module  # of the picture's embedding and the pose, loaded when the device is known

    def __init__(self, settings: Settings, source: ModelFolder) -> None:
        super().__init__(settings, source)
        stable = "stable-zero123" in f"{settings.model} {source.path.name}".replace("_", "-")
        self.stable = settings.variant == "stable" or (settings.variant == "auto" and stable)
        channels = source.config("unet").get("in_channels")
        if channels != 8:
            raise ModelError(f"{source.path}: its U-Net takes {channels} channels, not Zero123's 8: latent and picture")

    def to(self, device: torch.device | str) -> Self:
        super().to(device)
        self.projection = self.projection.to(self.device)
        return self

    def load(self) -> None:
        super().load()
        self.projection = projection_of(self.source, self.settings.legacy)

    def text_encoder(self, device: torch.device) -> TextEncoder:
        raise NotImplementedError("it hears no words")

    def hear(self, prompts: Sequence[Prompt]) -> None:
        """Nothing."""

    def spoken(self, prompt: Prompt) -> Mapping[str, Rows]:
        return {name: {} for name in self.conditions}

    def look_at(self, given: Reference) -> Mapping[str, Tensor]:
        """The picture's projected embedding, and the mode of its latent, which is not scaled here."""
        shown = before(given, WHITE).to(self.device)
        encoder = self.source.encoder("image_encoder", "CLIPVisionModelWithProjection", self.dtype).to(self.device)
        small = self.seen(shown).permute(0, 2, 3, 1) / 2 + 0.5  # at the size of its own pictures first
        pixels = clip_pixels(small, int(encoder.config.image_size), sharp=True)  # type: ignore[union-attr, arg-type]
        embedding = encoder(pixels.to(self.dtype)).image_embeds.float()
        return {"embedding": embedding, "beside": self.codec.encode(self.seen(shown), self.ladder) / self.codec.scale}

    def pose(self, cameras: Cameras, given: Cameras) -> Tensor:
        """[B, 4]: polar angle (from above) and azimuth of each view less the picture's, and of the distance likewise;
        Stable-Zero123 is told the picture's own polar angle instead of the distance."""
        around = torch.deg2rad(cameras.azimuth_deg - given.azimuth_deg)
        up = torch.deg2rad(given.elevation_deg - cameras.elevation_deg)
        last = (
            torch.deg2rad(90 - given.elevation_deg).expand_as(up) if self.stable else cameras.distance - given.distance
        )
        return torch.stack([up, around.sin(), around.cos(), last], -1)

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        """Without a picture the token is zeros behind the layer, not what the layer makes of zeros."""
        if prompt.image is None:
            raise InputError("zero123: the prompt has no picture; give one with --image")
        tables = self.seen_pictures[prompt.image]
        pose = self.pose(cameras, prompt.image.camera.to(cameras.camera_to_world.device)).to(self.device)
        embedding = tables["embedding"].expand(len(pose), -1)
        token = self.projection(torch.cat([embedding, pose], -1))[:, None]
        beside = tables["beside"].expand(len(pose), -1, -1, -1)
        nothing = {"token": torch.zeros_like(token), "beside": torch.zeros_like(beside)}
        return {"text": {"token": token, "beside": beside}, "null": nothing}

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        rows = {name: row.to(z.dtype) for name, row in condition.rows.items()}
        said: Tensor = self.net(torch.cat([z, rows["beside"]], 1), time, rows["token"], return_dict=False)[0]
        return said


def projection_of(source: ModelFolder, legacy: str) -> nn.Module:
    """The linear layer that makes the token, float32; in a folder of its own that conversions call differently."""
    if isinstance(source.inner, SingleFile):
        return source.inner.filled("cc_projection", torch.float32)
    for name, prefix in PROJECTIONS.items():
        if source.has(name):
            folder = source.path / name
            found = sorted(folder.glob("*.safetensors")) or [folder / legacy]
            file = opened(found[0], bool(legacy) and found[0].name == legacy)
            state = under(file.read(list(file.shapes)), prefix)
            outer, inner = state["weight"].shape if "weight" in state else (1, POSE)
            return filled(nn.Linear(inner, outer, device="meta"), state, torch.float32, str(found[0]))
    raise ModelError(
        f"{source.path}: has neither {' nor '.join(PROJECTIONS)}, so it is no Zero123; give a whole folder"
    )
