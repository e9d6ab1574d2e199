# SPDX-License-Identifier: Apache-2.0
"""What a picture shows, in words that the embedded prior knows, and from which side.

A view relative to a picture says nothing of where the object's front is, and a picture has no caption. But the prior
knows shapes by words and by sides. So a small network reads both off a given picture: its category, the colours of the
two parts that a caption names, and the azimuth it was taken from. The novel role then asks the prior what it knows.

An object with several like sides has several right azimuths; the answer is the nearest mode of 72 directions, refined
by its neighbours. How far the picture leans is answered alike. The network is trained by
`dreamlab toybox train --role reader` on the world's own pictures, half of them made strange
(`dreamlab.toybox.training.style`), and sees the object as large as it can be, however the picture frames it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
LEANS = 36  # directions that up may be, 10 degrees apart; the first is up
FILL = 0.85  # of the reader's square that the object's longer side takes
FAINT = 0.25  # cover of a row of pixels from which it belongs to the object
FILLS = (0.78, 0.85, 0.92)  # in which a picture is looked at
LEANING = 15.0  # degrees from which a picture is stood upright
ROOM = math.sqrt(2)  # that a turned square needs
LOOKS = ((0.0, False), (0.0, True), (-6.0, False), (6.0, False))  # at an upright one: degrees turned, mirrored
SURE = 0.9  # probability from which a picture is taken for what it seems; how it was chosen: the model card
QUESTIONS = 5  # what it is, from where, the main colour, the second part's, how it leans
FORMAT = 2
FILE = "reader.safetensors"


@dataclass(frozen=True)
class Known:
    """What a reader can name."""

    objects: tuple[tuple[str, str], ...]  # a category and its second part, "" without one
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Answers:
    """Logits for each picture."""

    category: Tensor  # [B, objects]
    turn: Tensor  # [B, TURNS]
    colour: Tensor  # [B, 2, colours]
    lean: Tensor  # [B, LEANS]


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

    def __init__(self, known: Known, blocks: int = 3, temperature: float = 1.0) -> None:
        super().__init__()
        middle, core = WIDTHS
        self.known, self.temperature = known, temperature
        self.stem, self.middle = Conv(16, middle, 2), nn.Sequential(Residual(middle), Residual(middle))
        self.to_core = Conv(middle, core, 2)
        self.place = nn.Parameter(0.1 * torch.randn((SIZE // 8) ** 2, core))
        self.question_place = nn.Parameter(0.3 * torch.randn(QUESTIONS, core))
        self.blocks = nn.ModuleList(WordBlock(core) for _ in range(blocks))
        self.category = nn.Linear(core, len(known.objects))
        self.turn = nn.Linear(core, TURNS)
        self.colour = nn.Linear(core, len(known.colours))
        self.lean = nn.Linear(core, LEANS)

    def forward(self, picture: Tensor) -> Answers:  # `prepared`
        fours = F.pixel_unshuffle(picture.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)  # 2 x 2 pixels in a cell
        x = self.middle(self.stem(fours))
        x = self.to_core(F.silu(x)).flatten(1, 2) + self.place.to(x.dtype)
        x = torch.cat([self.question_place.to(x.dtype).expand(len(x), -1, -1), x], 1)
        mask = torch.zeros(x.shape[:2], device=x.device)
        for block in self.blocks:
            x = block(x, mask)
        said = norm(x[:, :QUESTIONS])
        answers = self.category(said[:, 0]), self.turn(said[:, 1]), self.colour(said[:, 2:4]), self.lean(said[:, 4])
        return Answers(*(answer.float() for answer in answers))


def prepared(rgb: Tensor, alpha: Tensor, fill: float | Tensor = FILL, shift: Tensor | None = None) -> Tensor:
    """[B, H, W, 3] colours premultiplied by alpha [B, H, W, 1] -> [B, SIZE, SIZE, 4]: the object over mid gray, and
    where it is; moved and enlarged to `fill` the square, `shift` [B, 2] (of half the square) off its middle."""
    x = torch.cat([rgb, alpha], -1).permute(0, 3, 1, 2)
    scale, centre = _box(alpha[..., 0])
    scale = scale / fill
    if shift is not None:
        centre = centre - scale[:, None] * shift
    turn = scale[:, None, None] * torch.eye(2, device=x.device)
    grid = F.affine_grid(torch.cat([turn, centre[..., None]], 2), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    if x.shape[2:] != (SIZE, SIZE):
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
    x = x.permute(0, 2, 3, 1)
    return torch.cat([2 * x[..., :3] - x[..., 3:], 2 * x[..., 3:] - 1], -1)


def turned(picture: Tensor, degrees: Tensor) -> Tensor:
    """[B, S, S, 4] premultiplied -> [B, R, R, 4] each turned to the left by its degrees [B] about the middle of what is
    there: what leans to the right by them stands upright. All of it is inside, in no coarser pixels."""
    half, centre = _box(picture[..., 3])
    cos, sin = (wave(torch.deg2rad(degrees)) for wave in (torch.cos, torch.sin))
    turn = torch.stack([cos, -sin, sin, cos], 1).unflatten(1, (2, 2)) * (ROOM * half)[:, None, None]
    size = [len(picture), 4, *2 * [math.ceil(ROOM * picture.shape[1])]]
    grid = F.affine_grid(torch.cat([turn, centre[..., None]], 2), size, align_corners=False)
    return F.grid_sample(picture.permute(0, 3, 1, 2), grid, align_corners=False).permute(0, 2, 3, 1)


def _box(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Half the longer side [B] and the middle [B, 2] of what is there in [B, H, W], in [-1, 1], to parts of a pixel by
    how much of its outermost rows is covered; all of the picture where nothing is."""
    sides = []
    for axis in (1, 2):  # over rows: the columns, x
        cover = alpha.amax(axis)
        there, size = cover > FAINT, cover.shape[1]
        places = torch.arange(size, device=alpha.device).expand_as(there)
        low = torch.where(there, places, size - 1).amin(1, keepdim=True)
        high = torch.where(there, places, 0).amax(1, keepdim=True)
        ends = [low + 1 - cover.gather(1, low), high + cover.gather(1, high)]
        bare = ~there.any(1)
        first, last = (end[:, 0].masked_fill(bare, full) for end, full in zip(ends, (0.0, float(size)), strict=True))
        sides.append((first * (2 / size) - 1, last * (2 / size) - 1))
    half = torch.stack([(high - low) / 2 for low, high in sides], 1).amax(1)
    return half, torch.stack([(high + low) / 2 for low, high in sides], 1)


def azimuth_of(turn: Tensor) -> Tensor:  # [B, directions] -> degrees [B]
    """The likeliest direction, and between its neighbours the mean."""
    likely, count = turn.softmax(-1), turn.shape[-1]
    smooth = likely.roll(1, -1) + 2 * likely + likely.roll(-1, -1)
    best = smooth.argmax(-1, keepdim=True)
    steps = torch.arange(-2, 3, device=turn.device)
    near = likely.gather(-1, (best + steps) % count)
    offset = (near * steps).sum(-1) / near.sum(-1)
    return torch.remainder((best[:, 0] + offset) * (360.0 / count) + 180.0, 360.0) - 180.0


@dataclass(frozen=True)
class Sighting:
    """What a reader makes of one picture."""

    kind: str
    part: str  # that a caption names second, "" without one
    colours: tuple[str, str]
    turn: Tensor  # [TURNS] probabilities of the directions that it was taken from
    lean_deg: float  # of the picture, to the right
    likely: tuple[tuple[str, float], ...]  # the kinds that come to mind first, with probabilities

    @property
    def sure(self) -> bool:
        """Whether the picture shows what it is taken for; of pictures of other things few make it so sure."""
        return self.likely[0][1] >= SURE

    @property
    def azimuth_deg(self) -> float:
        return float(azimuth_of(self.turn.log()[None]))

    @property
    def words(self) -> str:
        return sentence(self.kind, self.part, self.colours)


def sentence(kind: str, part: str, colours: Sequence[str]) -> str:
    """A caption."""
    return f"{colours[0]} {kind}" + (f" with {colours[1]} {part}" if part and len(colours) > 1 else "")


def mean(logits: Sequence[Tensor]) -> Tensor:
    """Of probabilities."""
    return torch.stack([each.softmax(-1) for each in logits]).mean(0)


@torch.no_grad()
def looked_at(reader: Reader, picture: Tensor) -> list[Answers]:
    """Premultiplied pictures [B, S, S, 4] as they are, stood upright, and then mirrored and turned a little, each in
    several sizes: what is said of all of them is worth more than what is said of one, and its probability means more.
    Lean is of the picture as it is; a mirror shows an object from the other side."""
    asked = [reader(prepared(picture[..., :3], picture[..., 3:], fill)) for fill in FILLS]
    lean = azimuth_of(mean([each.lean for each in asked]).log())
    upright = torch.where(lean.abs() > LEANING, lean, 0.0)
    back = (-torch.arange(TURNS, device=lean.device)) % TURNS
    found = list(asked)
    for degrees, mirrored in LOOKS:
        shown = turned(picture, upright + degrees)
        shown = shown.flip(2) if mirrored else shown
        for fill, first in zip(FILLS, asked, strict=True):
            said = reader(prepared(shown[..., :3], shown[..., 3:], fill))
            found.append(replace(said, turn=said.turn[:, back] if mirrored else said.turn, lean=first.lean))
    return found


def read(reader: Reader, given: Reference) -> Sighting:
    """A given picture, looked at in several ways."""
    device = reader.place.device
    rgb, alpha = given.rgb.to(device)[None], given.alpha.to(device)[None]
    seen = looked_at(reader, torch.cat([rgb * alpha, alpha], -1))
    kinds = mean([each.category / reader.temperature for each in seen])[0]
    best = kinds.topk(min(3, len(kinds)))
    colour = mean([each.colour for each in seen])[0].argmax(-1).tolist()
    names = reader.known.objects
    kind, part = names[int(best.indices[0])]
    return Sighting(
        kind,
        part,
        (reader.known.colours[colour[0]], reader.known.colours[colour[1]]),
        mean([each.turn for each in seen])[0].cpu(),
        float(azimuth_of(mean([each.lean for each in seen]).log())),
        tuple((names[i][0], p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)),
    )


def turn_error(turn: Tensor, azimuth_deg: Tensor) -> Tensor:  # [B, directions], [B] -> [B]
    """Cross-entropy with the two directions that an azimuth lies between."""
    count = turn.shape[-1]
    place = torch.remainder(azimuth_deg, 360.0) * (count / 360.0)
    low = place.floor()
    share, log = place - low, turn.log_softmax(-1)
    rows = torch.arange(len(turn), device=turn.device)
    low = low.long() % count
    return -(1 - share) * log[rows, low] - share * log[rows, (low + 1) % count]


def packed(reader: Reader, facts: Mapping[str, object]) -> bytes:
    """A safetensors file in fp16; what it can name is in its header."""
    state = {name: value.detach().to("cpu", torch.float16) for name, value in reader.state_dict().items()}
    known = {"objects": reader.known.objects, "colours": reader.known.colours}
    header: dict[str, object] = {**known, "facts": dict(facts), "temperature": reader.temperature}
    return tensors.packed(state, "reader", {**header, tensors.FORMAT: FORMAT})


def load(path: Path) -> Reader:
    """Read and check a reader; ModelError says in one line what is missing or damaged."""

    def build(header: tensors.Header, state: dict[str, Tensor]) -> Reader:
        objects = tuple((str(name), str(part)) for name, part in header["objects"])
        known = Known(objects, tuple(map(str, header["colours"])))
        reader = Reader(known, temperature=float(header["temperature"]))
        reader.load_state_dict(state)
        return reader.requires_grad_(False).eval()

    again = "reinstall dreamlab, or train it with `dreamlab toybox train --role reader`"
    return tensors.network(path, "reader", FORMAT, again, build)
