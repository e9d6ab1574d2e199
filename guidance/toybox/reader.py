# SPDX-License-Identifier: Apache-2.0
"""What a picture shows, in words that the embedded prior knows, and from which side.

A view relative to a picture says nothing of where the object's front is, and a picture has no caption. But the prior
knows shapes by words and by sides. So a small network reads both off a given picture: its category, the colours of the
two parts that a caption names, and the azimuth it was taken from. The novel role then asks the prior what it knows.

An object with several like sides has several right azimuths; the answer is the nearest mode of 72 directions, refined
by its neighbours. The network is trained by `dreamlab toybox train --role reader` on the world's own pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core import tensors
from dreamlab.core.types import Reference
from guidance.toybox.layers import Conv, WordBlock, norm

SIZE = 64
TURNS = 72  # directions around, 5 degrees apart; the first is the front
WIDTHS = (80, 160)  # at 1/4 and 1/8 of the picture
QUESTIONS = 4  # what it is, from where, the main colour, the second part's
FORMAT = 1
FILE = "reader.safetensors"


@dataclass(frozen=True)
class Known:
    """What a reader can name."""

    objects: tuple[tuple[str, str], ...]  # a category and its second part, "" without one
    colours: tuple[str, ...]

    def sentence(self, category: int, colours: Sequence[int]) -> str:
        name, part = self.objects[category]
        main, second = (self.colours[index] for index in colours)
        return f"{main} {name}" + (f" with {second} {part}" if part else "")


@dataclass(frozen=True)
class Answers:
    """Logits for each picture."""

    category: Tensor  # [B, objects]
    turn: Tensor  # [B, TURNS]
    colour: Tensor  # [B, 2, colours]


class Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Conv(width, width), Conv(width, width)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(norm(x)))))


class Reader(nn.Module):
    """Convolutions down to 8 x 8 tokens, then attention between them and one token for each question."""

    def __init__(self, known: Known, blocks: int = 3) -> None:
        super().__init__()
        middle, core = WIDTHS
        self.known = known
        self.stem, self.middle = Conv(16, middle, 2), nn.Sequential(Residual(middle), Residual(middle))
        self.to_core = Conv(middle, core, 2)
        self.place = nn.Parameter(0.1 * torch.randn((SIZE // 8) ** 2, core))
        self.question_place = nn.Parameter(0.3 * torch.randn(QUESTIONS, core))
        self.blocks = nn.ModuleList(WordBlock(core) for _ in range(blocks))
        self.category = nn.Linear(core, len(known.objects))
        self.turn = nn.Linear(core, TURNS)
        self.colour = nn.Linear(core, len(known.colours))

    def forward(self, picture: Tensor) -> Answers:  # `prepared`
        fours = F.pixel_unshuffle(picture.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)  # 2 x 2 pixels in a cell
        x = self.middle(self.stem(fours))
        x = self.to_core(F.silu(x)).flatten(1, 2) + self.place.to(x.dtype)
        x = torch.cat([self.question_place.to(x.dtype).expand(len(x), -1, -1), x], 1)
        mask = torch.zeros(x.shape[:2], device=x.device)
        for block in self.blocks:
            x = block(x, mask)
        said = norm(x[:, :QUESTIONS])
        answers = self.category(said[:, 0]), self.turn(said[:, 1]), self.colour(said[:, 2:])
        return Answers(*(answer.float() for answer in answers))


def prepared(rgb: Tensor, alpha: Tensor) -> Tensor:
    """[B, H, W, 3] colours premultiplied by alpha [B, H, W, 1] -> [B, SIZE, SIZE, 4]: the object over mid gray, and
    where it is."""
    x = torch.cat([2 * rgb - alpha, 2 * alpha - 1], -1)
    if x.shape[1:3] != (SIZE, SIZE):
        x = F.interpolate(x.permute(0, 3, 1, 2), (SIZE, SIZE), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    return x


def azimuth_of(turn: Tensor) -> Tensor:  # [B, TURNS] -> degrees [B]
    """The likeliest direction, and between its neighbours the mean."""
    likely = turn.softmax(-1)
    smooth = likely.roll(1, -1) + 2 * likely + likely.roll(-1, -1)
    best = smooth.argmax(-1, keepdim=True)
    steps = torch.arange(-2, 3, device=turn.device)
    near = likely.gather(-1, (best + steps) % TURNS)
    offset = (near * steps).sum(-1) / near.sum(-1)
    return torch.remainder((best[:, 0] + offset) * (360.0 / TURNS) + 180.0, 360.0) - 180.0


def read(reader: Reader, given: Reference) -> tuple[str, float]:
    """(its words, the azimuth it was taken from in degrees) of a given picture."""
    device = reader.place.device
    rgb, alpha = given.rgb.to(device)[None], given.alpha.to(device)[None]
    with torch.no_grad():
        answers = reader(prepared(rgb * alpha, alpha))
    words = reader.known.sentence(int(answers.category.argmax()), answers.colour[0].argmax(-1).tolist())
    return words, float(azimuth_of(answers.turn))


def turn_error(turn: Tensor, azimuth_deg: Tensor) -> Tensor:  # [B, TURNS], [B] -> [B]
    """Cross-entropy with the two directions that an azimuth lies between."""
    place = torch.remainder(azimuth_deg, 360.0) * (TURNS / 360.0)
    low = place.floor()
    share, log = place - low, turn.log_softmax(-1)
    rows = torch.arange(len(turn), device=turn.device)
    low = low.long() % TURNS
    return -(1 - share) * log[rows, low] - share * log[rows, (low + 1) % TURNS]


def packed(reader: Reader, facts: Mapping[str, object]) -> bytes:
    """A safetensors file in fp16; what it can name is in its header."""
    state = {name: value.detach().to("cpu", torch.float16) for name, value in reader.state_dict().items()}
    header = {"objects": reader.known.objects, "colours": reader.known.colours, "facts": dict(facts)}
    return tensors.packed(state, "reader", {**header, tensors.FORMAT: FORMAT})


def load(path: Path) -> Reader:
    """Read and check a reader; ModelError says in one line what is missing or damaged."""

    def build(header: tensors.Header, state: dict[str, Tensor]) -> Reader:
        objects = tuple((str(name), str(part)) for name, part in header["objects"])
        reader = Reader(Known(objects, tuple(map(str, header["colours"]))))
        reader.load_state_dict(state)
        return reader.requires_grad_(False).eval()

    again = "reinstall dreamlab, or train it with `dreamlab toybox train --role reader`"
    return tensors.network(path, "reader", FORMAT, again, build)
