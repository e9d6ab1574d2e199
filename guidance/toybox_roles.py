# SPDX-License-Identifier: Apache-2.0
"""The other roles of the embedded prior: several views at once, a surface to paint, a picture to turn, a clip.

Rows that follow one another are one scene: MVDream's four views (Shi et al. 2023), Zero123's pose relative to a given
picture (Liu et al. 2023), ControlNet's maps (Zhang et al. 2023), and frames of a clip. The network is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.errors import InputError
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.toybox import Toybox, folder_of, shared_of
from guidance.toybox_net import Text
from guidance.toybox_store import words_of
from guidance.toybox_told import camera_features, hint_of, hint_of_picture, moment_features, turned_features
from guidance.toybox_volume import Given


def share(rows: int, joint: int, what: str) -> int:
    """How many rows are seen together: all of a small batch, else the number it was trained with."""
    size = min(rows, joint)
    if rows % size:
        raise InputError(f"views: {rows}: this prior looks at {joint} {what} together; give a multiple of {joint}")
    return size


class _Joint(Toybox):
    """Rows of a condition in groups; their number travels as the length of a shared tensor, so that nobody waits."""

    what: ClassVar[str] = "views"

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        size = share(len(cameras), self.together, self.what)
        group = torch.empty(size, device=self.net.place.device)
        made = super().condition(prompt, cameras, frames)
        return {name: Condition(one.rows, {**one.shared, "group": group}) for name, one in made.items()}

    def velocity(self, z: Tensor, bar: Tensor, text: Text, condition: Condition) -> Tensor:
        return self.net(z, bar, text, condition.rows["camera"], None, len(condition.shared["group"]))


class ToyboxViews(_Joint):
    """Four views of one object seen together, from cameras around it."""

    paper: ClassVar[str] = "joint views as in MVDream (Shi et al. 2023, arXiv:2308.16512)"
    role: ClassVar[str] = "views"
    together: ClassVar[int] = 4


class ToyboxVideo(_Joint):
    """Frames of a clip seen together; each camera's time says which moment of the action it shows."""

    paper: ClassVar[str] = "frames as joint views; after Video Diffusion Models (Ho et al. 2022, arXiv:2204.03458)"
    role: ClassVar[str] = "video"
    together: ClassVar[int] = 8
    still: ClassVar[bool] = False
    one_noise: ClassVar[bool] = True
    abilities: ClassVar[frozenset[str]] = Toybox.abilities | {"clip"}  # rules of whole clips may ask it
    what: ClassVar[str] = "frames"

    def view(self, cameras: Cameras) -> Tensor:
        if cameras.time is None:
            raise InputError("toybox-video: the cameras have no time; it needs a scene that moves (cameras: {clip: 8})")
        return torch.cat([camera_features(cameras), moment_features(cameras.time, self.net.net.moments)], -1)


class ToyboxControl(Toybox):
    """Pictures of a surface that is given: depth, normals and mask of the frames tell it where what is."""

    paper: ClassVar[str] = "depth and normals as in ControlNet (Zhang et al. 2023, arXiv:2302.05543)"
    role: ClassVar[str] = "control"

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        if frames.normal is None:
            raise InputError(
                "toybox-control: the scene renders no normals; use one that does (mesh, dmtet, hash_field)"
            )
        hint = hint_of(frames.depth.detach(), frames.normal.detach(), frames.alpha.detach(), cameras)
        if hint.shape[1] != self.size:
            small = F.interpolate(hint.permute(0, 3, 1, 2), (self.size, self.size), mode="area")
            hint = small.permute(0, 2, 3, 1)
        made = super().condition(prompt, cameras, frames)
        return {name: Condition({**one.rows, "hint": hint}, one.shared) for name, one in made.items()}

    def velocity(self, z: Tensor, bar: Tensor, text: Text, condition: Condition) -> Tensor:
        return self.net(z, bar, text, condition.rows["camera"], condition.rows["hint"])


class ToyboxNovel(Toybox):
    """The object of a picture from elsewhere: told the picture, clean, how far each view is turned from it, and what it
    is, if the prompt says so in words that it knows."""

    paper: ClassVar[str] = "relative poses as in Zero123 (Liu et al. 2023, arXiv:2303.11328)"
    role: ClassVar[str] = "novel"
    together: ClassVar[int] = 2  # the given picture and a view
    still: ClassVar[bool] = False  # its volume is of the picture, too
    variants: frozenset[str] = frozenset({"text", "null"})  # "text" is the picture, and the words

    @staticmethod
    def listen(settings: Toybox.Settings, prompt: Prompt) -> None:
        """A prompt may say nothing of the object, so words that it does not know are no mistake."""
        reading = words_of(folder_of(settings.weights)).read(prompt.text)
        if reading.unknown:
            warnings.warn(f"prompt: {reading.report()}; going by the picture alone", stacklevel=2)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        if prompt.image is None:
            raise InputError("toybox-novel: the prompt has no picture; give one with --image")
        given = prompt.image
        first = given.camera.to(cameras.azimuth_deg.device)
        device = self.net.place.device
        captions = self._encoded(prompt)
        # The given picture stands before each view's own background, so that all pictures of a group agree.
        rgb = given.rgb.to(device)[None] * given.alpha.to(device)[None]
        over = rgb + (1 - given.alpha.to(device)) * frames.background[:, None, None].to(device)
        shared = {**shared_of(captions), "first": self._turned(first, first).to(device)}
        view = self._turned(cameras, first).to(device)
        rows = {"camera": view, "picture": self.encode(over).detach()}
        known = torch.ones(len(cameras), device=device)
        return {
            "text": Condition({**rows, "known": known, "caption": 0 * known.long()}, shared),
            "null": Condition({**rows, "known": 0 * known, "caption": known.long()}, shared),
        }

    def texts(self, prompt: Prompt) -> dict[str, str]:
        return {"words": "" if self.words.read(prompt.text).unknown else prompt.text, "null": ""}

    def _turned(self, cameras: Cameras, first: Cameras) -> Tensor:
        return F.pad(turned_features(cameras, first.azimuth_deg), (0, 2 * self.net.net.moments))

    def velocity(self, z: Tensor, bar: Tensor, text: Text, condition: Condition) -> Tensor:
        """Each row beside its picture; where that is not known, a black one said to be at full noise."""
        known = condition.rows["known"]
        picture = condition.rows["picture"].permute(0, 2, 3, 1) * known[:, None, None, None]
        first = condition.shared["first"].expand(len(z), -1)

        def paired(given: Tensor, row: Tensor) -> Tensor:
            return torch.stack([given, row], 1).flatten(0, 1)

        camera = paired(first, condition.rows["camera"])
        hint = None
        if self.net.net.hint:
            hint = paired(*2 * [hint_of_picture(picture) * known[:, None, None, None]])
        text = self.net.shaped(text, None, Given(picture, first, known > 0))
        text = text.rows(torch.arange(2 * len(z), device=z.device) // 2)
        seen = self.net.seen(text, camera, paired(known, known) > 0)
        v = self.net(paired(picture, z), paired(known, bar), text, camera, hint, self.together, seen)
        return v[1::2]


TOYBOXES: Mapping[str, type[Toybox]] = {
    kind.role: kind for kind in (Toybox, ToyboxViews, ToyboxControl, ToyboxNovel, ToyboxVideo)
}
