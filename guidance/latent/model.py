# SPDX-License-Identifier: Apache-2.0
"""A pretrained latent diffusion model as guidance: what all families of it share.

A family says which networks its folder holds, what its text is, and how its network is called (`answer`); here are the
noise table, the precision, the texts that are encoded once, the encoder with its gradient, one batched call of the
network whatever it is asked, and its answer as eps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core import pixels
from dreamlab.core.cameras import Cameras
from dreamlab.core.cards import GuidanceCard, knows_all
from dreamlab.core.errors import InputError
from dreamlab.core.noise import NoiseTable, eps_from_flow, eps_from_v, eps_from_x0
from dreamlab.core.prompting import DIRECTIONS
from dreamlab.core.settings import setting
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.latent.adapter import NetAdapter
from guidance.latent.codec import WAYS, Codec, arranged, layout_on
from guidance.latent.loading import ModelFolder
from guidance.latent.memory import Ladder, empty_cache
from guidance.latent.tables import Clock, clock_of
from guidance.latent.text import Heard, Rows, TextEncoder, variants
from guidance.latent.vocabulary import clip_hears
from guidance.shared.dtypes import DTYPES, dtype_of
from guidance.shared.worlds import Worlds

PREDICTIONS = ("epsilon", "v_prediction")
SPOKEN = frozenset({"text", "null", "negative", "blind", "blind_null", *DIRECTIONS})
GRIDS = frozenset({"grid", "grid_null"})  # four views as one picture; of models that see rows one by one


@dataclass(frozen=True)
class ModelSettings:
    """What every pretrained model can be told."""

    model: str = setting("", help="a name of `dreamlab models ls`, or the path of a folder or file")
    legacy: str = setting("", help="name of the pickled file in it that may be read (several: with commas)")
    tokenizer: str = setting("", help="folder with a tokenizer, for one file, which has none; else CLIP's own")
    prediction: str = setting("", choices=("", *PREDICTIONS), help="of one file of SD 2, which does not tell")
    ema: bool = setting(False, help="of one file: its moving averages instead of its weights")
    lora: tuple[str, ...] = setting((), help="LoRA files (kohya, peft, diffusers) that are merged into the weights")
    lora_scales: tuple[float, ...] = setting((), low=-4, high=4, help="how much of each of them; none: 1")
    dtype: str = setting("auto", choices=DTYPES, help="of the network; auto: bfloat16 where that is fast")
    size: int = setting(0, low=0, high=2048, help="pixels at which it looks at the frames; 0: what it was trained at")
    null: str = setting("empty", choices=("empty", "negative"), help="what the unconditional half hears")
    clip_skip: int = setting(0, low=0, high=11, help="layers of the text encoder that are left out at its end")
    rows: int = setting(0, low=0, high=1024, help="most rows in one call of the network; 0: all")
    encoder: str = setting("exact", choices=WAYS, help="of pictures; hybrid: exact values with the tiny one's gradient")
    tiny: str = setting("taesd", help="the tiny autoencoder, as `model`; for hybrid and tiny")
    tiny_floor: float = setting(0.3, low=-1, high=1, help="cosine of gradients below which the exact one is used")
    recompute: bool = setting(False, help="the encoder's activations are made again instead of kept: less memory")
    offload: bool = setting(False, help="the network is on the device only while it is asked: far less memory, slow")
    compile: bool = setting(False, help="torch.compile: a minute at the first step, faster after")


def trained_side(source: ModelFolder) -> int:
    """Pixels, as the folder knows: 64 latents of 8 pixels for SD 1.5, 96 for 2.1, 32 for MVDream."""
    widths = cast(list[int], source.config("vae")["block_out_channels"])
    return cast(int, source.config("unet")["sample_size"]) * 2 ** (len(widths) - 1)


class LatentModel(ABC):
    """One pretrained model; `answer` is what a family adds."""

    conditions: ClassVar[frozenset[str]] = SPOKEN
    together: ClassVar[int] = 1  # rows that it sees as one
    takes: ClassVar[str]  # the family of the registry whose models it is made of
    default: ClassVar[str]  # of those
    embedded: ClassVar[str] = "toybox"  # the role of the embedded prior that can stand in
    single_kinds: ClassVar[tuple[str, ...]] = ()  # of single files that hold it (guidance/latent/single_file.py)
    trained_at: ClassVar[int] = 512  # pixels, unless its folder says otherwise
    tiles: ClassVar[tuple[int, int]] = (1, 1)  # rows and columns of views in one picture that it looks at
    glance: ClassVar[int] = 0  # pixels of a given picture that each call looks at besides
    net_part: ClassVar[str] = "unet"
    net_kinds: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel",)
    vae_kind: ClassVar[str] = "AutoencoderKL"
    time_part: ClassVar[str] = "time_embedding"  # of the network: where an adapter adds the camera; "": nowhere
    conv: ClassVar[bool] = True  # made of convolutions, which like their channels last
    clip_words: ClassVar[bool] = False  # CLIP reads all of its text

    @classmethod
    def card(cls, settings: ModelSettings) -> GuidanceCard:
        return GuidanceCard(
            cls.conditions,
            cls.together,
            one_time=True,
            adapter=True,
            models=cls.models(settings),
            embedded=cls.embedded,
            hear=clip_hears if cls.clip_words else knows_all,
        )

    @classmethod
    def models(cls, settings: ModelSettings) -> tuple[tuple[str, str], ...]:
        """What must be on this machine, each with its family in the registry."""
        tiny = ((settings.tiny, "tiny-vae"),) if settings.encoder != "exact" else ()
        return ((settings.model or cls.default, cls.takes), *tiny, *((name, "lora") for name in settings.lora))

    @classmethod
    def build(cls, settings: Any, worlds: Worlds | None) -> Self:
        from guidance.latent.places import opened

        return cls(settings, opened(settings, cls.takes, cls.default, cls.single_kinds))

    def __init__(self, settings: ModelSettings, source: ModelFolder) -> None:
        self.settings, self.source = settings, source
        self.clock: Clock = self.clock_of(source)
        self.dtype = torch.float32
        self.module: Any = None  # the network, loaded when the device is known; a class of diffusers
        self.ladder = Ladder(self.together, settings.rows, settings.recompute)
        self.heard = Heard(self.text_encoder)
        self.device = torch.device("cpu")

    # ---- what a family says ------------------------------------------------------------------------------------------
    def clock_of(self, source: ModelFolder) -> Clock:
        return clock_of(source.config("scheduler"), str(source.path / "scheduler"))

    @abstractmethod
    def text_encoder(self, device: torch.device) -> TextEncoder:
        """Its text encoders, in memory."""

    @abstractmethod
    def answer(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """What the network says of inputs z [M, C, h, w] at times [M] (`Clock.time`), in its own form."""

    def told(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Mapping[str, Tensor]]:
        """Rows [B, ...] by variant that come with the views; "" is for all variants without rows of their own."""
        return {}

    def texts(self, prompt: Prompt) -> dict[str, str]:
        """The text of each variant."""
        return variants(prompt, self.settings.null)

    def spoken(self, prompt: Prompt) -> Mapping[str, Rows]:
        """The rows of each variant's text."""
        texts = self.texts(prompt)
        self.heard.hear(list(texts.values()))
        return {name: self.heard[text] for name, text in texts.items() if name != "grid" or "grid" in self.conditions}

    # ---- the contract ------------------------------------------------------------------------------------------------
    @property
    def table(self) -> NoiseTable:
        return self.clock.table

    def to(self, device: torch.device | str) -> Self:
        """Networks are loaded here, straight in the precision they will run in."""
        self.device, self.dtype = torch.device(device), dtype_of(self.settings.dtype, torch.device(device))
        self.clock = self.clock.to(self.device)
        self.heard.to(self.device)
        if self.module is None:
            self.load()
        self.module = self.placed(self.module)
        self.net = torch.compile(self.module, fullgraph=True) if self.settings.compile else self.module
        self.codec.to(self.device)
        self.side = self.settings.size or self.trained_at
        if self.side % self.codec.factor:
            raise InputError(f"size: {self.side} is no multiple of {self.codec.factor}, a latent's side in pixels")
        return self

    def load(self) -> None:
        """The network and the autoencoder; texts are encoded when they are heard."""
        self.module = self.source.network(self.net_part, self.net_kinds, self.dtype)
        self.codec = self.autoencoder()

    def autoencoder(self) -> Codec:
        from guidance.latent.places import network

        s = self.settings
        vae = self.source.network("vae", (self.vae_kind,), self.picture_dtype())
        tiny = network(s.tiny, "tiny-vae", ("AutoencoderTiny",), self.picture_dtype()) if s.encoder != "exact" else None
        return Codec(vae, tiny, s.encoder, s.tiny_floor)

    def placed(self, net: Any) -> Any:
        if self.settings.offload:
            return net
        return arranged(net, self.device) if self.conv else net.to(self.device)

    def picture_dtype(self) -> torch.dtype:
        """Of the autoencoder: half precision overflows in several (SDXL's says so itself), and its gradient is what the
        scene receives."""
        return torch.float32 if self.device.type == "cpu" or self.dtype == torch.float16 else self.dtype

    def hear(self, prompts: Sequence[Prompt]) -> None:
        """All prompts of a run at once, so that the encoders are loaded once."""
        self.heard.hear([text for prompt in prompts for text in self.texts(prompt).values()])

    def encode(self, rgb: Tensor) -> Tensor:
        return self.codec.encode(self.seen(rgb), self.ladder)

    def seen(self, rgb: Tensor) -> Tensor:
        """[B, H, W, 3] as the model looks at it: [B, 3, side, side] in [-1, 1]."""
        x = pixels.encode(rgb)
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        return x

    def decode(self, z: Tensor) -> Tensor:
        return pixels.decode(self.codec.decode(z)).clamp(0, 1)

    def condition(self, prompt: Prompt, cameras: Cameras, frames: Frames) -> Mapping[str, Condition]:
        spoken, told, count = self.spoken(prompt), self.told(prompt, cameras, frames), len(cameras)
        made = {}
        for name, rows in spoken.items():
            wide = {key: row.expand(count, *row.shape[1:]) for key, row in rows.items()}
            made[name] = Condition({**wide, **told.get(name, told.get("", {}))})
        if "grid" in self.conditions:
            made["grid"], made["grid_null"] = gridded(made["grid"], count), gridded(made["null"], count)
        return made | {"blind": made["text"], "blind_null": made["null"]} if "blind" in self.conditions else made

    def predict(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        with torch.no_grad():
            if not self.settings.offload:
                return self.ladder.call(self.eps, z_t, t_index, condition)
            try:
                self.module.to(self.device)
                return self.ladder.call(self.eps, z_t, t_index, condition)
            finally:
                self.module.to("cpu")
                empty_cache()

    def eps(self, z_t: Tensor, t_index: Tensor, condition: Condition) -> Tensor:
        """As `predict`, all rows in one call, in whatever mode of gradients the caller is."""
        z, time = z_t.float(), self.clock.time[t_index]
        a, b = self.table.signal_noise(t_index, z)
        if self.clock.form == "flow":
            # The state of the flow that holds the same x0 and n, at s exact: a / b would have lost it (tables.py).
            s = time.reshape(-1, *[1] * (z.dim() - 1))
            z_s = z * ((1 - s).square() + s.square()).sqrt()
            return eps_from_flow(z_s, self._asked(z_s, time, condition), s).to(z_t.dtype)
        said = self._asked(z, time, condition)
        form = {"v": eps_from_v, "x0": eps_from_x0}.get(self.clock.form)
        return (said if form is None else form(z, said, a, b)).to(z_t.dtype)

    def velocity(self, z_s: Tensor, s: Tensor, condition: Condition) -> Tensor:
        """Of a flow, n - x0 at states z_s and times s [M] between its indices; no gradient."""
        with torch.no_grad():
            return self._asked(z_s.float(), s, condition)

    def _asked(self, z: Tensor, time: Tensor, condition: Condition) -> Tensor:
        x = z.to(self.dtype)
        x = x.contiguous(memory_format=layout_on(x.device)) if self.conv else x
        return self.answer(x, time, condition).float()

    def adapter(self, rank: int) -> NetAdapter:
        """Trainable additions to the network (VSD, BSD, ASD), or of rank 0 a copy of it."""
        return NetAdapter(self, rank)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """The network as it is, not compiled, inside the block."""
        before, self.net = self.net, self.module
        try:
            yield
        finally:
            self.net = before

    def relieve(self) -> str:
        """Give up speed for memory; what was given up, or nothing where nothing is left."""
        return self.ladder.relieve()

    def renew(self) -> bool:
        """Texts are forgotten: one that is encoded among others may differ in its last bits. What was given up stays
        given up, a tiny encoder has been judged by a picture, and a compiled network has seen the shapes of a run."""
        if self.ladder.taken or self.settings.encoder != "exact" or self.settings.compile:
            return False
        self.heard.forget()
        return True


def gridded(condition: Condition, views: int) -> Condition:
    """Rows for four views as one picture: pictures that were shown of each of them side by side, at half the size."""
    rows = {}
    for name, row in condition.rows.items():
        whole = row[: views // 4 * 4]
        rows[name] = pixels.tiled(F.avg_pool2d(whole, 2)) if row.dim() == 4 else whole[::4]
    return Condition(rows, condition.shared)
