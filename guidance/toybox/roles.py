# SPDX-License-Identifier: Apache-2.0
"""The other roles of the embedded prior: several views at once, a surface to paint, a picture to turn, a clip.

Rows that follow one another are one scene: MVDream's four views (Shi et al. 2023), Zero123's pose relative to a given
picture (Liu et al. 2023), ControlNet's maps (Zhang et al. 2023), and frames of a clip. The network is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard
from dreamlab.core.errors import InputError
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Framing, Hints, Prompt, Reference
from dreamlab.toybox import asked
from dreamlab.toybox.caption import CATEGORY_WORDS, EAR
from guidance.shared.groups import share
from guidance.toybox.net import Text
from guidance.toybox.palette import NOTHING, Palette, matched
from guidance.toybox.prior import Toybox, folder_of, shared_of
from guidance.toybox.reader import FILE as READER
from guidance.toybox.reader import LEANING, Sighting, read, sentence
from guidance.toybox.reader import load as load_reader
from guidance.toybox.sides import CELLS, azimuths, best_side, framed, likeness
from guidance.toybox.store import Stored, words_of
from guidance.toybox.told import (
    CAMERA_FEATURES,
    camera_features,
    hint_of,
    hint_of_picture,
    moment_features,
    ray_features,
)
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
    single: ClassVar[bool] = False
    role: ClassVar[str] = "video"
    together: ClassVar[int] = 8
    still: ClassVar[bool] = False
    moves: ClassVar[bool] = True
    one_noise: ClassVar[bool] = True
    what: ClassVar[str] = "frames"

    @dataclass(frozen=True)
    class Settings(Toybox.Settings):
        weights: str = setting("toybox-video", file="weights", help="a folder (with a /), or the name of a shipped one")

    @classmethod
    def card(cls, settings: Toybox.Settings) -> GuidanceCard:
        return replace(super().card(settings), clip=True)

    @classmethod
    def unmade(cls, text: str) -> tuple[str, ...]:
        return asked.unmade(text, moves=True)

    def view(self, cameras: Cameras) -> Tensor:
        if cameras.time is None:
            raise InputError("toybox-video: the cameras have no time; it needs a scene that moves (cameras: {clip: 8})")
        return torch.cat([camera_features(cameras), moment_features(cameras.time, self.net.net.moments)], -1)


class ToyboxControl(Toybox):
    """Pictures of a surface that is given: depth, normals and mask of the frames tell it where what is."""

    paper: ClassVar[str] = "depth and normals as in ControlNet (Zhang et al. 2023, arXiv:2302.05543)"
    single: ClassVar[bool] = False
    role: ClassVar[str] = "control"

    @classmethod
    def card(cls, settings: Toybox.Settings) -> GuidanceCard:
        return replace(super().card(settings), normals=True)

    @classmethod
    def unmade(cls, text: str) -> tuple[str, ...]:
        """Of its words alone: the surface is given, and may be anything."""
        return EAR.hear(text).lacking

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
    single: ClassVar[bool] = False
    role: ClassVar[str] = "novel"
    together: ClassVar[int] = 2  # the given picture and a view
    still: ClassVar[bool] = False  # its volume is of the picture, too
    conditions: ClassVar[frozenset[str]] = frozenset({"text", "null"})  # "text" is the picture, and the words

    @dataclass(frozen=True)
    class Settings(Toybox.Settings):
        weights: str = setting("toybox-novel", file="weights", help="a folder (with a /), or the name of a shipped one")
        reader: str = setting("toybox-reader", file="weights", help="tells a picture's side and words: as weights")
        side_deg: float | None = setting(None, low=-180, high=180, help="as `image.side_deg`, over it")
        palette: bool = setting(
            True, help="the picture's own colours on all sides, not those that have names", tacit=True
        )

    @classmethod
    def card(cls, settings: Toybox.Settings) -> GuidanceCard:
        """Each view is looked at beside the given picture, by itself."""
        return replace(super().card(settings), together=1, picture=True, frames_picture=True)

    def __init__(self, settings: Settings, stored: Stored | None = None) -> None:
        self.reader = load_reader(folder_of(settings.reader) / READER)
        self.side_deg, self.own_colours = settings.side_deg, settings.palette
        self._of_picture: tuple[str, Reference, _Told] | None = None
        super().__init__(settings, stored)

    def to(self, device: torch.device | str) -> Self:
        self.reader, self._of_picture = self.reader.to(device), None
        super().to(device)
        return self

    @classmethod
    def unmade(cls, text: str) -> tuple[str, ...]:
        """What comes is the picture's."""
        return ()

    @staticmethod
    def listen(settings: Toybox.Settings, prompt: Prompt) -> None:
        """A prompt may say nothing of the object, so words that it does not know are no mistake."""
        reading = words_of(folder_of(settings.weights)).read(prompt.text)
        if reading.unknown:
            warnings.warn(f"prompt: {reading.report()}; going by what the picture shows", stacklevel=2)

    def hear(self, prompts: Sequence[Prompt]) -> None:
        """The picture's colours are known before the first frame is encoded."""
        for prompt in prompts[:1]:
            if prompt.image is not None:
                self._told(prompt.text, prompt.image)

    def renew(self) -> bool:
        self._of_picture = None
        return super().renew()

    def encode(self, rgb: Tensor) -> Tensor:
        """In the world's colours."""
        return super().encode(rgb if self._of_picture is None else self._of_picture[2].palette.to_world(rgb))

    def decode(self, z: Tensor) -> Tensor:
        rgb = super().decode(z)
        return rgb if self._of_picture is None else self._of_picture[2].palette.to_given(rgb)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        if prompt.image is None:
            raise InputError("toybox-novel: the prompt has no picture; give one with --image")
        given = prompt.image
        device = self.net.place.device
        told = self._told(prompt.text, given)
        # The given picture stands before each view's own background, so that all pictures of a group agree.
        over = _alone(given, device) + (1 - given.alpha.to(device)) * frames.background[:, None, None].to(device)
        view = self.view(_turned(cameras, told.turn.to(cameras.azimuth_deg))).to(device)
        shared = {**shared_of(told.captions), "first": self.view(_turned(given.camera.to(device), told.turn))}
        rows = {"camera": view, "picture": self.encode(over).detach()}
        known = torch.ones(len(cameras), device=device)
        return {
            "text": Condition({**rows, "known": known, "caption": 0 * known.long()}, shared),
            "null": Condition({**rows, "known": 0 * known, "caption": known.long()}, shared),
        }

    @torch.no_grad()
    def framing(self, prompt: Prompt) -> Framing | None:
        """How the picture must be moved so that its object is as large, and stands where and as, this world's is: by
        the area and the centre of what the words' volume shows from the picture's side. A leaning picture is stood
        upright first. Nothing without a volume or a match."""
        if prompt.image is None or not self.net.net.volume:
            return None
        given = prompt.image
        heard = self._heard(prompt.text, given)
        if heard.doubt:
            warnings.warn(heard.doubt, stacklevel=2)
            return None
        if abs(heard.lean_deg) > LEANING:
            return Framing(1.0, (0.0, 0.0), (0.0, 0.0), heard.lean_deg)
        there = self._shown(heard.words, _from(given, heard.azimuth_deg))[0, ..., MASK]
        mine, size = given.alpha[..., 0].cpu(), there.shape
        now = F.interpolate(mine[None, None], size, mode="bilinear", antialias=True)[0, 0]
        scale = float((there.sum() / now.sum().clamp(min=1e-6)).sqrt())
        if not 1 / APART < scale < APART:
            return None
        return Framing(scale, _centre(now), _centre(there))

    def _shown(self, words: str, cameras: Cameras, cells: int | None = None) -> Tensor:  # [B, h, w, SHOWN]
        """What the volume of some words shows: colour, mask, ..., the second part."""
        camera = self.view(cameras).to(self.net.place.device)
        rays = None if cells is None else ray_features(camera[:, :CAMERA_FEATURES], cells)
        text = self.net.shaped(self.captions({"words": words}))
        seen = self.net.seen(text.rows(torch.zeros(len(camera), dtype=torch.long, device=camera.device)), camera, rays)
        assert seen is not None  # it has a volume
        return self.net.volume.look(seen.to(self.net.dtype)).float().clamp(0, 1).cpu()

    def _heard(self, text: str, given: Reference) -> _TakenFor:
        """What is told of a picture in words, and how it was taken: as the prompt or the recipe says, else as the
        reader sees it; no words where it doubts."""
        seen, hints = read(self.reader, given), self._checked(given.hints)
        side = hints.side_deg if self.side_deg is None else self.side_deg
        said = self.words.read(text)
        whole = bool(said.tokens) and not said.unknown and not hints.kind  # half-heard words would mislead
        kind = hints.kind or seen.kind
        if not (whole or hints.kind or seen.sure):
            return _TakenFor("", seen.azimuth_deg if side is None else side, seen.lean_deg, doubt=_doubted(seen))
        part = dict(self.reader.known.objects).get(kind, "")
        colours = (*hints.colours, *seen.colours[len(hints.colours) :])
        words = text if whole else sentence(kind, part, colours)
        if not self.net.net.volume:
            return _TakenFor(words, seen.azimuth_deg if side is None else side, seen.lean_deg)
        azimuth = self._side(words, given, seen) if side is None else side
        return _TakenFor(words, azimuth, seen.lean_deg)

    def _checked(self, hints: Hints) -> Hints:
        """A kind by any of its names; InputError names what the world does not have."""
        kind = CATEGORY_WORDS.get(hints.kind.lower(), "")
        if hints.kind and not kind:
            near = self.words.read(hints.kind).report()
            raise InputError(
                f"image.kind: {hints.kind!r} is none of `dreamlab list objects`" + (f"; {near}" if near else "")
            )
        unknown = [colour for colour in hints.colours if colour not in self.reader.known.colours]
        if unknown or len(hints.colours) > 2:
            known = ", ".join(self.reader.known.colours)
            raise InputError(f"image.colours: {list(hints.colours)}: one or two of {known}")
        return replace(hints, kind=kind)

    def _side(self, words: str, given: Reference, seen: Sighting) -> float:
        """The azimuth that a picture was taken from, by what the reader says and how the words look from around."""
        around = azimuths()
        cameras = given.camera[torch.zeros(len(around), dtype=torch.long)]
        shown = self._shown(words, replace(cameras, azimuth_deg=around.to(cameras.azimuth_deg)), CELLS)
        picture = framed((given.rgb * given.alpha)[None].cpu(), given.alpha[None].cpu())
        alike = likeness(picture, framed(shown[..., :3], shown[..., MASK : MASK + 1]))
        return best_side(alike, seen.turn)

    @torch.no_grad()
    def _told(self, text: str, given: Reference) -> _Told:
        """What the network is told of a picture; made anew when the words or the picture change."""
        if self._of_picture is None or self._of_picture[0] != text or self._of_picture[1] is not given:
            device = self.net.place.device
            camera = given.camera.to(device)
            heard = self._heard(text, given)
            what = f"taken for: {heard.words}" if heard.words else "not named"
            warnings.warn(f"the picture is {what}, seen from {heard.azimuth_deg:.0f} degrees", stacklevel=4)
            palette = NOTHING
            if self.own_colours and self.net.net.volume and heard.words:
                palette = matched(given, self._shown(heard.words, _from(given, heard.azimuth_deg))[0])
            palette = palette.to(device)
            turn = heard.azimuth_deg - camera.azimuth_deg
            plain = _alone(given, device)[None] + (1 - given.alpha.to(device)) / 2
            picture = super().encode(palette.to_world(plain)).permute(0, 2, 3, 1)
            first = self.view(_turned(camera, turn))
            there = torch.tensor([True, False], device=device)
            seen = Given(picture.expand(2, -1, -1, -1), first.expand(2, -1), there)
            captions = self.net.shaped(self.captions({"words": heard.words, "null": ""}), None, seen)
            self._of_picture = (text, given, _Told(captions, turn, palette))
        return self._of_picture[2]

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


@dataclass(frozen=True)
class _TakenFor:
    """What a picture is taken for."""

    words: str
    azimuth_deg: float
    lean_deg: float
    doubt: str = ""  # a line, where nothing can be said of it


@dataclass(frozen=True, eq=False)
class _Told:
    """What the network is told of a picture."""

    captions: Text  # of it and of nothing, with their volumes
    turn: Tensor  # degrees from its camera's azimuth to the one that the object was seen from
    palette: Palette


def _doubted(seen: Sighting) -> str:
    likely = ", ".join(f"{kind} {chance:.0%}" for kind, chance in seen.likely)
    return (
        f"the picture looks like nothing that the toybox prior knows (nearest: {likely}): its shape is carried by the "
        "picture alone; if it is one of `list objects`, say so: image.kind=NAME, and image.side_deg=DEGREES"
    )


def _from(given: Reference, azimuth_deg: float) -> Cameras:
    """A picture's camera as it stands to the object."""
    return replace(given.camera, azimuth_deg=torch.full_like(given.camera.azimuth_deg, azimuth_deg))


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
