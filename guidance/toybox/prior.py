# SPDX-License-Identifier: Apache-2.0
"""The embedded prior: a small diffusion model of the procedural world, in pixel space, shipped with the package.

This is its image role; the others are in `toybox_roles`. It knows what its vocabulary names, from any camera, 64 px; it
was trained on nothing but the world's own pictures (`dreamlab.toybox.training`). Inside it predicts v (Salimans & Ho
2022); it answers in eps like every guidance. The captions of a prompt are encoded once; a row of a condition names its
caption and carries its camera.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core import pixels
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard, WordsHeard, beyond
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.noise import NoiseTable, eps_from_v, make_table
from dreamlab.core.settings import setting
from dreamlab.core.types import Carve, Condition, Frames, Prompt, Wearing
from dreamlab.toybox import asked
from dreamlab.toybox.hearing import PRETRAINED
from dreamlab.toybox.motion import ACTIONS
from dreamlab.toybox.wearing import wearing
from guidance.shared.dtypes import dtype_of
from guidance.shared.lora import Lora
from guidance.shared.whole import Whole
from guidance.shared.worlds import Worlds
from guidance.toybox import hollow
from guidance.toybox.net import Prior, Text, laid_out
from guidance.toybox.store import EVERY, Stored, load, longest_of, words_of
from guidance.toybox.told import camera_features
from guidance.toybox.words import PAD, Reading, Words

SHIPPED = Path(__file__).parents[1] / "weights"
HOLLOW = "toybox-hollow"  # of them, what knows the insides
DTYPES = ("auto", "float32", "bfloat16")

REMEMBERED = 64  # prompts whose captions are kept, about a megabyte each


class Toybox:
    """The image role: eps of one picture given its caption and camera; pictures scaled to [-1, 1]."""

    paper: ClassVar[str] = "our own; v-prediction of Salimans & Ho 2022, arXiv:2202.00512"
    conditions: ClassVar[frozenset[str]] = frozenset({"text", "null", "negative", "blind", "blind_null"})
    role: ClassVar[str] = "image"
    together: ClassVar[int] = 1  # pictures whose tokens attend to each other
    single: ClassVar[bool] = True  # what it draws is one object, from words alone
    still: ClassVar[bool] = True  # of a caption there is one volume, made once
    moves: ClassVar[bool] = False  # it is told what its words say an object does; else that is left out: it would pose
    one_noise: ClassVar[bool] = False  # its samples of a group start from one noise: what rests then rests by itself

    @dataclass(frozen=True)
    class Settings:
        weights: str = setting("toybox", file="weights", help="a folder (with a /), or the name of a shipped one")
        dtype: str = setting("auto", choices=DTYPES, help="auto: bfloat16 where the machine is fast at it")
        null_camera: bool = setting(True, help="the unconditional half of guidance still knows the camera")
        unknown: str = setting("refuse", choices=("refuse", "skip"), help="what to do with a word it does not know")

    @classmethod
    def card(cls, settings: Settings) -> GuidanceCard:
        return GuidanceCard(
            cls.conditions,
            cls.together,
            adapter=True,
            encodes=True,
            dresses=True,
            empties=True,
            single=cls.single,
            listen=partial(cls.listen, settings),
            hear=partial(cls.understood, settings),
        )

    @classmethod
    def build(cls, settings: Settings, worlds: Worlds | None) -> Self:
        return cls(settings)

    def __init__(self, settings: Settings, stored: Stored | None = None) -> None:
        self.settings = settings
        stored = stored or load(folder_of(settings.weights))
        if stored.role not in (self.role, EVERY):
            raise ModelError(f"{settings.weights}: a prior of the role {stored.role!r}; this needs {self.role!r}")
        self.table: NoiseTable = make_table(stored.table)
        self.words: Words = stored.words
        self.size = stored.net.net.size
        self._source: Prior = stored.net  # float32; `net` is what runs
        self._captions: dict[tuple[tuple[str, str], ...], Text] = {}  # of the last prompts, oldest first
        self.to("cpu")

    def to(self, device: torch.device | str) -> Self:
        device = torch.device(device)
        dtype = dtype_of(self.settings.dtype, device)
        net = Prior(self._source.net).requires_grad_(False).eval()
        net.load_state_dict(self._source.state_dict())
        self.net = laid_out(net.to(device, dtype))
        self.table = self.table.to(device)
        self._captions = {}
        return self

    def encode(self, rgb: Tensor) -> Tensor:
        z = pixels.encode(rgb)
        if z.shape[-2:] != (self.size, self.size):
            z = F.interpolate(z, (self.size, self.size), mode="bilinear", antialias=True)
        return z

    def decode(self, z: Tensor) -> Tensor:
        return pixels.decode(z)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        captions = self._encoded(prompt)
        view = self.view(cameras).to(captions.words.device)
        shared = shared_of(captions)

        def rows(caption: int, camera: Tensor) -> Condition:
            index = torch.full((len(cameras),), caption, device=camera.device)
            return Condition({"caption": index, "camera": camera}, shared)

        untold = torch.zeros_like(view)
        null_view = view if self.settings.null_camera else untold
        seeing = {"text": rows(0, view), "null": rows(1, null_view), "negative": rows(2, view)}
        return seeing | {"blind": rows(0, untold), "blind_null": rows(1, untold)}

    def view(self, cameras: Cameras) -> Tensor:  # [B, features]
        """What the network is told of the cameras; of no moment, if it knows moments."""
        return F.pad(camera_features(cameras), (0, 2 * self.net.net.moments))

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        with torch.no_grad():
            return self.eps(z_t, t_index, condition)

    def eps(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        """As `predict`, in whatever mode of gradients the caller is."""
        z = z_t.float()
        bar = self.table.alpha_bar[t_index]
        v = self.velocity(z.permute(0, 2, 3, 1), bar, self.text_of(condition), condition).permute(0, 3, 1, 2)
        return eps_from_v(z, v, *self.table.signal_noise(t_index, z)).to(z_t.dtype)

    def adapter(self, rank: int) -> ToyboxAdapter:
        """What rules that learn train (VSD): an addition, or of rank 0 a whole copy; each call gives another."""
        return ToyboxAdapter(self, rank)

    def velocity(self, z: Tensor, bar: Tensor, text: Text, condition: Condition) -> Tensor:
        """v [M, H, W, 3] of states z [M, H, W, 3] at alpha_bar [M]."""
        return self.net(z, bar, text, condition.rows["camera"])

    def text_of(self, condition: Condition) -> Text:
        shared = condition.shared
        volume = shared.get("volume")
        row = None if volume is None else torch.arange(len(volume), device=volume.device)
        return Text(shared["words"], shared["mask"], volume, row).rows(condition.rows["caption"])

    def captions(self, texts: Mapping[str, str]) -> Text:
        """Encoded texts, in order; the keys name them in messages. An empty text is the unconditional one."""
        text = self._spoken(texts)
        with torch.no_grad():
            return self.net.shaped(text) if self.still else text

    def _spoken(self, texts: Mapping[str, str]) -> Text:
        """The words alone, without the volume they become."""
        ids = padded([self._ids(text, what) for what, text in texts.items()])
        with torch.no_grad():
            return self.net.text(ids.to(self.net.place.device))

    def encoding(self, text: str) -> Tensor:
        """[D] the mean of a text's encoded words, for scenes that are told what to be."""
        said = self._spoken({"prompt": text})
        there = torch.isfinite(said.mask[0]).to(said.words)
        return ((said.words[0] * there[:, None]).sum(0) / there.sum()).float()

    def _encoded(self, prompt: Prompt) -> Text:
        """The captions of `texts`, in order; encoded once, and the tensors stay the same: prompts may take turns."""
        texts = self.texts(prompt)
        key = tuple(texts.items())
        if key not in self._captions:
            if len(self._captions) == REMEMBERED:
                del self._captions[next(iter(self._captions))]
            self._captions[key] = self.captions(texts)
        return self._captions[key]

    def wearing(self, text: str) -> tuple[Wearing, ...]:
        """Which parts a text wants of which material, and how to ask where they are."""
        return wearing(text)

    def carver(self, prompt: Prompt) -> Carve | None:
        """What the ring of cameras cannot know: `guidance.toybox.hollow`."""
        return hollow.carver(folder_of(HOLLOW) / hollow.FILE, prompt.text)

    def renew(self) -> bool:
        """Captions are encoded anew: what is said of a word that it does not know is said in every run."""
        self._captions = {}
        return True

    def texts(self, prompt: Prompt) -> dict[str, str]:
        """What is encoded of a prompt; the first is what it says, the second nothing."""
        return {"prompt": prompt.text, "null": "", "negative": prompt.negative}

    def _ids(self, text: str, what: str) -> list[int]:
        reading = heard(self.words, text, what, self.settings.unknown)
        if reading.unknown:
            warnings.warn(f"{what}: {reading.report()}; going on without", stacklevel=3)
        if not self.moves:
            rests = tuple(token for token in reading.tokens if token not in ACTIONS)
            reading = replace(reading, tokens=rests or reading.tokens)
        return self.words.encode(reading, self.net.net.longest, what)

    @staticmethod
    def listen(settings: Settings, prompt: Prompt) -> None:
        """Complain of a prompt when a recipe is read, before anything is loaded."""
        folder = folder_of(settings.weights)
        words, longest = words_of(folder), longest_of(folder)
        for what, text in (("prompt", prompt.text), ("negative", prompt.negative)):
            words.encode(heard(words, text, what, settings.unknown), longest, what)

    @classmethod
    def understood(cls, settings: Settings, text: str) -> WordsHeard:
        """Which of a text's words it does not know, and how many of its tokens there is room for."""
        folder = folder_of(settings.weights)
        words, limit = words_of(folder), longest_of(folder) - 1
        reading = words.read(text)
        lines = cls.unmade(text) if reading.tokens else ()
        unheard = beyond(text, lambda part: len(words.read(part).tokens), limit)
        return WordsHeard(reading.unknown, len(reading.tokens), limit, unheard, reading.overheard.read, lines)

    @classmethod
    def unmade(cls, text: str) -> tuple[str, ...]:
        """What a text asks for and this role does not make."""
        return asked.unmade(text)


def heard(words: Words, text: str, what: str, unknown: str) -> Reading:
    """The known words of a text; InputError names the others unless they may be skipped."""
    reading = words.read(text)
    if reading.unknown and unknown == "refuse":
        known = "use words it knows (`dreamlab list objects` has its objects), or go on without them: the guidance's "
        known += f"setting `unknown: skip`, e.g. stages.0.terms.0.guidance.unknown=skip; {PRETRAINED}"
        raise InputError(f"{what}: {reading.report()}; {known}")
    if what == "prompt" and not reading.tokens:
        raise InputError(f"prompt: {text!r} holds no word that the toybox prior knows")
    return reading


def folder_of(weights: str) -> Path:
    """A shipped prior by its name, else a path as given."""
    shipped = SHIPPED / weights
    return shipped if "/" not in weights and shipped.is_dir() else Path(weights)


class ToyboxAdapter:
    """The prior with LoRA on its attention layers, or with weights of its own; it hears the camera as the prior does,
    none where it is dropped."""

    def __init__(self, prior: Toybox, rank: int) -> None:
        self.prior = prior
        self.own = Lora(prior.net, rank, in_attention) if rank else Whole(prior.net, of_pictures)

    def start(self) -> dict[str, Tensor]:
        return self.own.start()

    def apply(
        self, params: Mapping[str, Tensor], z_t: Tensor, t_index: Tensor, condition: Condition, camera: Tensor
    ) -> Tensor:
        told = (camera.abs().sum(1, keepdim=True) > 0).to(condition.rows["camera"].dtype)
        rows = {**condition.rows, "camera": told * condition.rows["camera"]}
        with self.own.added(params):
            return self.prior.eps(z_t, t_index, Condition(rows, condition.shared))


def in_attention(name: str) -> bool:
    """Layers of the attention over pictures; captions are encoded once, apart from them."""
    return name.split(".")[-1] in ("q", "kv", "out") and not name.startswith("encoder.")


def of_pictures(name: str) -> bool:
    """Weights that no caption is encoded by."""
    return not name.startswith(("encoder.", "volume."))


def shared_of(captions: Text) -> dict[str, Tensor]:
    """Encoded captions as what the rows of a condition share."""
    shared = {"words": captions.words, "mask": captions.mask}
    return shared if captions.volume is None else {**shared, "volume": captions.volume}


def padded(captions: list[list[int]]) -> Tensor:
    """[M, L] ids of captions of unequal length."""
    longest = max(map(len, captions))
    return torch.tensor([ids + [PAD] * (longest - len(ids)) for ids in captions])
