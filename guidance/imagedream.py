# SPDX-License-Identifier: Apache-2.0
"""ImageDream: MVDream that is shown a picture, as words of an image encoder and as a fifth view without noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt, Reference
from guidance.latent.joint import told
from guidance.latent.pictured import Pictured
from guidance.latent.pictures import before, clip_pixels
from guidance.mvdream import MultiViewDream

GRAYS = 5  # backgrounds that the picture is looked at before, from black to white


class ImageDream(Pictured, MultiViewDream):
    """Four views of the object of a picture, whose side counts as the front. It was trained with the picture before the
    views' own gray."""

    paper: ClassVar[str] = "Wang and Shi 2023, arXiv:2312.02201"
    takes: ClassVar[str] = "imagedream"
    default: ClassVar[str] = "imagedream"
    embedded: ClassVar[str] = "toybox-novel"
    single_kinds: ClassVar[tuple[str, ...]] = ("imagedream",)

    @dataclass(frozen=True)
    class Settings(MultiViewDream.Settings):
        model: str = setting("imagedream", help="a name of `dreamlab models ls`, or the path of a folder or file")
        fifth: bool = setting(True, help="the picture as a fifth view (`pixel`); false: as words alone (`local`)")
        null: str = setting("negative", choices=("empty", "negative"), help="what the unconditional half hears")

    settings: Settings

    def load(self) -> None:
        super().load()
        if self.module.encoder_hid_proj is None:
            raise ModelError(
                f"{self.source.path}: its U-Net takes no picture, so it is not ImageDream's; is it MVDream?"
            )

    def look_at(self, given: Reference) -> Mapping[str, Tensor]:
        """The picture before every gray: what the image encoder's last layer but one says, and its latent."""
        grays = torch.linspace(0, 1, GRAYS).tolist()
        shown = torch.cat([before(given, gray) for gray in grays]).to(self.device)
        encoder = self.source.encoder("image_encoder", self._tower(), self.dtype).to(self.device)
        pixels = clip_pixels(shown, int(encoder.config.image_size)).to(self.dtype)  # type: ignore[union-attr, arg-type]
        hidden = [encoder(one, output_hidden_states=True).hidden_states[-2] for one in pixels.split(1)]
        return {"image": torch.cat(hidden)[:, None], "first": self.encode(shown)}

    def _tower(self) -> str:
        """Both classes have the layers that are read; a folder says which of them its file is of."""
        named = self.source.index().get("image_encoder", ())
        return "CLIPVisionModel" if "CLIPVisionModel" in named else "CLIPVisionModelWithProjection"

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        """Without a picture its place is zeros, behind neither encoder; and the camera stays."""
        if prompt.image is None:
            raise InputError("imagedream: the prompt has no picture; give one with --image")
        tables, count = self.seen_pictures[prompt.image], len(cameras)
        gray = (frames.background.mean() * (GRAYS - 1)).round().long().to(self.device).clamp(0, GRAYS - 1)
        front = float(prompt.image.camera.azimuth_deg)
        camera = {"camera": told(cameras, front).to(self.device)}
        # An index of one axis: a bare number of the device would be read by the host.
        rows = {name: table[gray[None]].expand(count, *table.shape[1:]) for name, table in tables.items()}
        nothing = {name: torch.zeros_like(row[:1]).expand_as(row) for name, row in rows.items()}
        blank = {**camera, **nothing}
        return {"": {**camera, **rows}, "null": blank, "negative": blank}

    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        count = len(condition.shared["group"])
        rows = {name: row.to(z.dtype) for name, row in condition.rows.items()}
        first, camera = rows.pop("first"), rows.pop("camera")
        if self.settings.fifth:
            # The picture's latent is a view at no noise, whose camera is zeros; what is said of it is dropped.
            z, camera = _behind(z, first, count), _behind(camera, torch.zeros_like(camera), count)
            rows = {name: _behind(row, row, count) for name, row in rows.items()}
            time = _behind(time, time, count)
        self.views.count = count + self.settings.fifth
        added = {"image_embeds": [rows["image"]]}
        said: Tensor = self.net(
            z, time, rows["text"], class_labels=camera, added_cond_kwargs=added, return_dict=False
        )[0]  # fmt: skip
        return said.unflatten(0, (-1, self.views.count))[:, :count].flatten(0, 1)


def _behind(rows: Tensor, more: Tensor, count: int) -> Tensor:
    """One more row behind each group of `count`: the first of the group's in `more`."""
    groups, fifth = (each.unflatten(0, (-1, count)) for each in (rows, more))
    return torch.cat([groups, fifth[:, :1]], 1).flatten(0, 1)
