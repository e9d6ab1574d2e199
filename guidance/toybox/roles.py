# SPDX-License-Identifier: Apache-2.0
"""The other roles of the embedded prior: several views at once, a surface to paint, a picture to turn, a clip.

Rows that follow one another are one scene: MVDream's four views (Shi et al. 2023), Zero123's pose relative to a given
picture (Liu et al. 2023), ControlNet's maps (Zhang et al. 2023), and frames of a clip. The network is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import InputError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Framing, Prompt, Reference
from guidance.shared.groups import share
from guidance.toybox.net import Text
from guidance.toybox.prior import Toybox, folder_of, shared_of
from guidance.toybox.reader import FILE as READER
from guidance.toybox.reader import load as load_reader
from guidance.toybox.reader import read
from guidance.toybox.store import Stored, words_of
from guidance.toybox.told import camera_features, hint_of, hint_of_picture, moment_features
from guidance.toybox.volume import MASK, Given

APART = 2.0  # factor of sizes beyond which a picture was taken for something else


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
    what: ClassVar[str] = "frames"

    @dataclass(frozen=True)
    class Settings(Toybox.Settings):
        weights: str = setting("toybox-video", file="weights", help="a folder (with a /), or the name of a shipped one")

    @classmethod
    def card(cls, settings: Toybox.Settings) -> GuidanceCard:
        return replace(super().card(settings), clip=True)

    def view(self, cameras: Cameras) -> Tensor:
        if cameras.time is None:
            raise InputError("toybox-video: the cameras have no time; it needs a scene that moves (cameras: {clip: 8})")
        return torch.cat([camera_features(cameras), moment_features(cameras.time, self.net.net.moments)], -1)


class ToyboxControl(Toybox):
    """Pictures of a surface that is given: depth, normals and mask of the frames tell it where what is."""

    paper: ClassVar[str] = "depth and normals as in ControlNet (Zhang et al. 2023, arXiv:2302.05543)"
    role: ClassVar[str] = "control"

    @classmethod
    def card(cls, settings: Toybox.Settings) -> GuidanceCard:
        return replace(super().card(settings), normals=True)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        if frames.normal is None:
            raise InputError("toybox-control: the scene renders no normals; use one that does (mesh, dmtet, gaussians)")
        hint = hint_of(frames.depth.detach(), frames.normal.detach(), frames.alpha.detach(), cameras)
        if hint.shape[1] != self.size:
            small = F.interpolate(hint.permute(0, 3, 1, 2), (self.size, self.size), mode="area")
            hint = small.permute(0, 2, 3, 1)
        made = super().condition(prompt, cameras, frames)
        return {name: Condition({**one.rows, "hint": hint}, one.shared) for name, one in made.items()}

    def velocity(self, z: Tensor, bar: Tensor, text: Text, condition: Condition) -> Tensor:
        return self.net(z, bar, text, condition.rows["camera"], condition.rows["hint"])


class ToyboxNovel(Toybox):
    """The object of a picture from elsewhere: told the picture, clean, and how far each view is turned from it. Which
    side the picture shows, and of what unless the prompt says so in words that it knows, it reads off the picture."""

    paper: ClassVar[str] = "relative poses as in Zero123 (Liu et al. 2023, arXiv:2303.11328)"
    role: ClassVar[str] = "novel"
    together: ClassVar[int] = 2  # the given picture and a view
    still: ClassVar[bool] = False  # its volume is of the picture, too
    conditions: ClassVar[frozenset[str]] = frozenset({"text", "null"})  # "text" is the picture, and the words

    @dataclass(frozen=True)
    class Settings(Toybox.Settings):
        weights: str = setting("toybox-novel", file="weights", help="a folder (with a /), or the name of a shipped one")
        reader: str = setting("toybox-reader", file="weights", help="tells a picture's side and words: as weights")

    @classmethod
    def card(cls, settings: Toybox.Settings) -> GuidanceCard:
        """Each view is looked at beside the given picture, by itself."""
        return replace(super().card(settings), together=1, picture=True, frames_picture=True)

    def __init__(self, settings: Settings, stored: Stored | None = None) -> None:
        self.reader = load_reader(folder_of(settings.reader) / READER)
        self._told: tuple[str, Reference, Text, Tensor] | None = None
        super().__init__(settings, stored)

    def to(self, device: torch.device | str) -> Self:
        self.reader, self._told = self.reader.to(device), None
        super().to(device)
        return self

    @staticmethod
    def listen(settings: Toybox.Settings, prompt: Prompt) -> None:
        """A prompt may say nothing of the object, so words that it does not know are no mistake."""
        reading = words_of(folder_of(settings.weights)).read(prompt.text)
        if reading.unknown:
            warnings.warn(f"prompt: {reading.report()}; going by what the picture shows", stacklevel=2)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        if prompt.image is None:
            raise InputError("toybox-novel: the prompt has no picture; give one with --image")
        given = prompt.image
        device = self.net.place.device
        captions, turn = self._of(prompt.text, given)
        # The given picture stands before each view's own background, so that all pictures of a group agree.
        over = _alone(given, device) + (1 - given.alpha.to(device)) * frames.background[:, None, None].to(device)
        view = self.view(_turned(cameras, turn.to(cameras.azimuth_deg))).to(device)
        shared = {**shared_of(captions), "first": self.view(_turned(given.camera.to(device), turn))}
        rows = {"camera": view, "picture": self.encode(over).detach()}
        known = torch.ones(len(cameras), device=device)
        return {
            "text": Condition({**rows, "known": known, "caption": 0 * known.long()}, shared),
            "null": Condition({**rows, "known": 0 * known, "caption": known.long()}, shared),
        }

    @torch.no_grad()
    def framing(self, prompt: Prompt) -> Framing | None:
        """How the picture must be moved so that its object is as large, and stands where, this world's is: by the area
        and the centre of what the words' volume shows from the picture's side. Nothing without a volume or a match."""
        if prompt.image is None or not self.net.net.volume:
            return None
        given = prompt.image
        heard, azimuth = self._heard(prompt.text, given)
        camera = self.view(replace(given.camera, azimuth_deg=torch.tensor([azimuth]))).to(self.net.place.device)
        seen = self.net.seen(self.net.shaped(self.captions({"words": heard})), camera)
        assert seen is not None  # it has a volume
        shown = self.net.volume.look(seen.to(self.net.dtype))
        there = shown[0, ..., MASK].float().clamp(0, 1).cpu()
        mine, size = given.alpha[..., 0].cpu(), there.shape
        now = F.interpolate(mine[None, None], size, mode="bilinear", antialias=True)[0, 0]
        scale = float((there.sum() / now.sum().clamp(min=1e-6)).sqrt())
        if not 1 / APART < scale < APART:
            return None
        return Framing(scale, _centre(now), _centre(there))

    def _heard(self, text: str, given: Reference) -> tuple[str, float]:
        """What is told of a picture in words, and the azimuth it was taken from."""
        words, azimuth = read(self.reader, given)
        said = self.words.read(text)
        return text if said.tokens and not said.unknown else words, azimuth  # half-heard words would mislead

    @torch.no_grad()
    def _of(self, text: str, given: Reference) -> tuple[Text, Tensor]:
        """(captions of the given picture and of nothing, with their volumes; degrees from its camera's azimuth to the
        one that the object was seen from); made anew when the words or the picture change."""
        if self._told is None or self._told[0] != text or self._told[1] is not given:
            device = self.net.place.device
            camera = given.camera.to(device)
            heard, azimuth = self._heard(text, given)
            warnings.warn(f"the picture is taken for: {heard}, seen from {azimuth:.0f} degrees", stacklevel=4)
            turn = azimuth - camera.azimuth_deg
            picture = self.encode(_alone(given, device)[None] + (1 - given.alpha.to(device)) / 2).permute(0, 2, 3, 1)
            first = self.view(_turned(camera, turn))
            there = torch.tensor([True, False], device=device)
            seen = Given(picture.expand(2, -1, -1, -1), first.expand(2, -1), there)
            self._told = (text, given, self.net.shaped(self.captions({"words": heard, "null": ""}), None, seen), turn)
        return self._told[2], self._told[3]

    def velocity(self, z: Tensor, bar: Tensor, text: Text, condition: Condition) -> Tensor:
        """Each row beside its picture; where that is not known, a black one said to be at full noise."""
        known = condition.rows["known"]
        picture = condition.rows["picture"].permute(0, 2, 3, 1) * known[:, None, None, None]

        def paired(given: Tensor, row: Tensor) -> Tensor:
            return torch.stack([given, row], 1).flatten(0, 1)

        camera = paired(condition.shared["first"].expand(len(z), -1), condition.rows["camera"])
        hint = None
        if self.net.net.hint:
            hint = paired(*2 * [hint_of_picture(picture) * known[:, None, None, None]])
        text = text.rows(torch.arange(2 * len(z), device=z.device) // 2)
        return self.net(paired(picture, z), paired(known, bar), text, camera, hint, self.together)[1::2]


def _turned(cameras: Cameras, by_deg: Tensor) -> Cameras:
    return replace(cameras, azimuth_deg=cameras.azimuth_deg + by_deg)


def _centre(mask: Tensor) -> tuple[float, float]:  # [h, w] -> x, y in [-1, 1]
    rows, columns = ((torch.arange(n) + 0.5) * (2 / n) - 1 for n in mask.shape)
    total = float(mask.sum().clamp(min=1e-6))
    return float(mask.sum(0) @ columns) / total, float(mask.sum(1) @ rows) / total


def _alone(given: Reference, device: torch.device) -> Tensor:  # [H, W, 3]
    """A picture's object before black."""
    return given.rgb.to(device) * given.alpha.to(device)


TOYBOXES: Mapping[str, type[Toybox]] = {
    kind.role: kind for kind in (Toybox, ToyboxViews, ToyboxControl, ToyboxNovel, ToyboxVideo)
}
