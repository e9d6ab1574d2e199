# SPDX-License-Identifier: Apache-2.0
"""The network of the embedded prior: words and a camera in, the velocity v = a n - s x0 of a noisy picture out.

Two levels of convolutions (48, 96) around a transformer trunk of 8 x 8 tokens work at half the picture's size; each
trunk block looks at single words (colour sits beside its noun), and so does the level above on the way up. A thin head
works at full size and starts at zero: the whole then answers with the half-size net, run at matched noise (below),
and a linear guess of the detail.

Matched noise. Averaging 2 x 2 pixels of z = a x + s n halves the noise and keeps the picture: mean z = a x' + (s/2) n'.
Divided by r = sqrt(a^2 + s^2/4) it is a variance-preserving state of the small picture with a' = a/r, s' = s/2r, whose
logarithmic signal-to-noise is that of z plus 2 log 2. From v' of that state the block means of v follow exactly:

    v_low = v' / 2r - (3/4) (a s / r^2) mean z

What is left of z in each block, z_fine, holds detail of deviation d and noise; for Gaussian detail the best answer is

    v_fine = a s (1 - d^2) / (a^2 d^2 + s^2) z_fine,  and its error has deviation d / sqrt(a^2 d^2 + s^2),

which scales what the head adds.

Rays. Each token and each cell of the level above is told the line through the world that it looks along: a part of an
object stays where it is in the world whatever the camera, so the network need not learn from angles where it projects.

Volume. Before that, the words become a small volume (`toybox_volume`), and each cell is told what its ray meets there.

Across. Pictures of a group share the trunk's attention over 8 x 8 tokens: enough for what an object is, too coarse for
where its edges are. A network may look once more, at all cells of the level above, before it goes up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidance.toybox.layers import Attention, Conv, Linear, Up, WordBlock, doubled, norm, pooled, through, zero
from guidance.toybox.told import CAMERA_FEATURES, ray_features
from guidance.toybox.volume import Given, Volume, seen_along
from guidance.toybox.words import PAD


@dataclass(frozen=True)
class NetSettings:
    """What must be known to build the network; stored beside the weights."""

    vocabulary: int
    size: int = 64
    fine: int = 32  # channels at full size
    wide: int = 48  # at 1/2
    middle: int = 96  # at 1/4
    core: int = 224  # at 1/8, the trunk
    blocks: int = 4
    words: int = 168
    word_blocks: int = 2
    longest: int = 32  # tokens of a caption
    detail: float = 0.07  # deviation d of a picture about its 2 x 2 means, on the scale [-1, 1]
    hint: int = 0  # channels of a control picture
    moments: int = 0  # harmonics of a frame's time within a clip
    rays: int = 0  # channels of the line that a cell looks along
    volume: int = 0  # channels of the volume that the words become
    across: bool = False  # pictures of a group see each other at a quarter of their size, too

    @property
    def half(self) -> int:
        return self.size // 2


@dataclass(frozen=True)
class Text:
    """Encoded captions."""

    words: Tensor  # [M, L, D]
    mask: Tensor  # [M, L] 0 or -inf, added to the scores
    volume: Tensor | None = None  # [K, z, y, x, C] what they say of the shape, if it was asked for
    volume_row: Tensor | None = None  # [M] which of these is whose

    def rows(self, index: Tensor) -> Text:
        words, mask = self.words.index_select(0, index), self.mask.index_select(0, index)
        return Text(words, mask, self.volume, None if self.volume_row is None else self.volume_row[index])


@dataclass(frozen=True)
class Told:
    """What every level of the network is told of a state beside the words."""

    condition: Tensor  # [M, C] time, camera, caption and backdrop
    rays: Tensor | None  # [M, h, w, RAY_CHANNELS] of the cells at a quarter of the picture's size
    seen: Tensor | None  # [M, h, w, C + 1] of the volume there


class WordEncoder(nn.Module):
    """Embedding, a convolution over three words, transformer blocks. The first word sums up the caption."""

    def __init__(self, net: NetSettings) -> None:
        super().__init__()
        self.table = nn.Embedding(net.vocabulary, net.words, padding_idx=PAD)
        self.place = nn.Parameter(0.02 * torch.randn(net.longest, net.words))
        self.near = nn.Linear(3 * net.words, net.words)
        self.blocks = nn.ModuleList(WordBlock(net.words) for _ in range(net.word_blocks))
        nn.init.normal_(self.table.weight, std=0.3)

    def forward(self, ids: Tensor) -> Text:  # [M, L] long
        there = ids != PAD
        mask = torch.zeros(ids.shape, device=ids.device).masked_fill(~there, -math.inf)
        x = self.table(ids) * there[..., None]
        around = F.pad(x, (0, 0, 1, 1))
        x = x + F.gelu(self.near(torch.cat([around[:, :-2], x, around[:, 2:]], -1)), approximate="tanh")
        x = x + self.place[: ids.shape[1]].to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return Text(norm(x), mask)


class TrunkBlock(nn.Module):
    """Self-attention and MLP shifted and scaled by time and camera, with a look at the words between them."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(6, width))  # what this block adds to the shared modulation
        self.attention = Attention(width)
        self.look = Attention(width, words)
        self.up, self.down = Linear(width, 3 * width), Linear(3 * width, width)
        with torch.no_grad():
            self.shift[2], self.shift[5] = 1.0, 1.0
            for layer in (self.attention.out, self.look.out, self.down):
                layer.weight.mul_(0.3)

    def forward(self, x: Tensor, modulation: Tensor, text: Text, joint: int = 1) -> Tensor:  # [B, N, C], [B, 6, C]
        told = (modulation + self.shift.to(modulation.dtype)).to(x.dtype)
        x = self.attention(x, told=told[:, :2].flatten(1), gate=told[:, 2], joint=joint)
        x = self.look(x, text.words, text.mask)
        y = through(self.up, x, told[:, 3:5].flatten(1), normed=True, act="relu2")
        return through(self.down, y, gate=told[:, 5], residual=x)


class ConvBlock(nn.Module):
    """Two convolutions, the first one's input scaled and shifted by time and camera."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.modulate = nn.Linear(condition, 2 * width)
        self.first, self.second = Conv(width, width), Conv(width, width)
        zero(self.modulate)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        told = self.modulate(condition).to(x.dtype)
        y = through(self.first, x, told, normed=True, silu=True, act="silu")
        return through(self.second, y, residual=x)


class Prior(nn.Module):
    """The whole network; `half_size` is the part below the head, trained first."""

    def __init__(self, net: NetSettings) -> None:
        super().__init__()
        self.net = net
        c = net.core
        self.encoder = WordEncoder(net)
        self.time = nn.Sequential(nn.Linear(32, c), nn.SiLU(), nn.Linear(c, c))
        self.camera = nn.Sequential(nn.Linear(CAMERA_FEATURES, c), nn.SiLU(), nn.Linear(c, c))
        self.camera_word = nn.Linear(c, net.words)
        self.summary = nn.Linear(net.words, c)
        self.around = nn.Linear(3, c, bias=False)
        self.modulate = nn.Linear(c, 6 * c)
        self.stem = Conv(6, net.wide)
        self.up_wide = ConvBlock(net.wide, c)
        self.to_middle, self.from_middle = Conv(net.wide, net.middle, 2), Up(net.middle, net.wide)
        self.down_middle, self.up_middle = ConvBlock(net.middle, c), ConvBlock(net.middle, c)
        self.to_core, self.from_core = Conv(net.middle, c, 2), Up(c, net.middle)
        self.look_middle = Attention(net.middle, net.words)
        self.place = nn.Parameter(0.02 * torch.randn((net.size // 8) ** 2, c))
        self.trunk = nn.ModuleList(TrunkBlock(c, net.words) for _ in range(net.blocks))
        self.answer = Conv(net.wide, 3)
        self.head_in, self.head_down = Conv(6, net.fine), Conv(net.fine, net.wide, 2)
        self.head_up, self.head_block = Up(net.wide, net.fine), ConvBlock(net.fine, c)
        self.head_out = Conv(net.fine, 3)
        started: list[nn.Linear | nn.Conv2d] = [self.around, self.modulate, self.answer, self.head_down, self.head_out]
        if net.hint:
            # Without a bias: a hint of zeros is no hint.
            self.hint_half, self.hint_full = (Conv(net.hint, width, bias=False) for width in (net.wide, net.fine))
            started += [self.hint_half, self.hint_full]
        if net.moments:
            self.moment = nn.Linear(2 * net.moments, c, bias=False)
            started += [self.moment]
        if net.rays:
            self.ray_middle, self.ray_core = (Linear(net.rays, width, bias=False) for width in (net.middle, c))
            started += [self.ray_middle, self.ray_core]
        if net.volume:
            self.volume = Volume(net.words, net.volume, net.moments)
            seen = net.volume + 1
            self.seen_wide = Up(seen, net.wide)
            self.seen_middle, self.seen_core = (Linear(seen, width, bias=False) for width in (net.middle, c))
            started += [self.seen_wide, self.seen_middle, self.seen_core]
        if net.across:
            self.across = Attention(net.middle)
            started += [self.across.out]
        for layer in started:
            zero(layer)

    @property
    def dtype(self) -> torch.dtype:
        return self.place.dtype

    def text(self, ids: Tensor) -> Text:
        return self.encoder(ids)

    def shaped(self, text: Text, moment: Tensor | None = None, given: Given | None = None) -> Text:
        """The same with its volume: of the words, of a moment of a clip, and of a picture."""
        if not self.net.volume:
            return text
        row = torch.arange(len(text.words), device=text.words.device)
        return replace(text, volume=self.volume(text.words, text.mask, moment, given), volume_row=row)

    def seen(self, text: Text, camera: Tensor, rays: Tensor | None = None) -> Tensor | None:  # [M, h, w, C + 1]
        """What the cells at a quarter of the picture's size see of the volume; nothing where no camera is told. `rays`
        are those of the cells, if the caller has them."""
        if not self.net.volume:
            return None
        if text.volume is None:
            text = self.shaped(text, camera[:, CAMERA_FEATURES:] if self.net.moments else None)
        assert text.volume is not None and text.volume_row is not None
        told = camera[:, CAMERA_FEATURES - 1] > 0
        rays = ray_features(camera[:, :CAMERA_FEATURES], self.net.size // 4) if rays is None else rays
        return seen_along(text.volume, text.volume_row, rays) * told[:, None, None, None]

    def _told(self, z: Tensor, log_snr: Tensor, text: Text, camera: Tensor, seen: Tensor | None) -> tuple[Told, Text]:
        """Time, camera, caption and backdrop of a half-size state; the words with the camera as one more."""
        frequency = torch.exp2(torch.linspace(-3.0, 3.0, 16, device=log_snr.device))
        angle = log_snr.clamp(-12, 12)[:, None] / 4 * frequency
        view = self.camera(camera[:, :CAMERA_FEATURES].to(self.dtype))
        if self.net.moments:
            view = view + self.moment(camera[:, CAMERA_FEATURES:].to(self.dtype))
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1).to(self.dtype))
        around = self.around(backdrop(z, log_snr).to(self.dtype))
        condition = F.silu(time + view + self.summary(text.words[:, 0]) + around)
        words = torch.cat([text.words, self.camera_word(view)[:, None]], 1)
        rays = ray_features(camera[:, :CAMERA_FEATURES], z.shape[1] // 2) if self.net.rays else None
        seen = self.seen(text, camera, rays) if seen is None else seen
        rays = None if rays is None else rays.to(self.dtype)
        seen = None if seen is None else seen.to(self.dtype)
        return Told(condition, rays, seen), Text(words, F.pad(text.mask, (0, 1)))

    def _stem(self, z: Tensor, s: Tensor, extra: Tensor | None = None) -> Tensor:  # [B, h, w, C]
        """What is seen of a half-size state before any word; `extra` is what else it is told."""
        return through(self.stem, self._seen(z, z - doubled(pooled(z)), s), residual=extra)

    def _half(self, x: Tensor, told: Told, text: Text, joint: int) -> tuple[Tensor, Tensor]:
        """v [B, h, w, 3] of a half-size state seen as `x`, and the last map."""
        condition = told.condition
        wide = x if told.seen is None else through(self.seen_wide, told.seen, residual=x)
        middle = None
        if told.seen is not None:
            middle = through(self.seen_middle, told.seen)
        if told.rays is not None:
            middle = through(self.ray_middle, told.rays, residual=middle)
        middle = self.down_middle(through(self.to_middle, wide, silu=True, residual=middle), condition)
        core = None
        if told.rays is not None:
            core = through(self.ray_core, pooled(told.rays))
        if told.seen is not None:
            core = through(self.seen_core, pooled(told.seen), residual=core)
        core = through(self.to_core, middle, residual=core)
        x = core.flatten(1, 2) + self.place.to(core.dtype)
        modulation = self.modulate(condition).unflatten(-1, (6, -1))
        for block in self.trunk:
            x = block(x, modulation, text, joint)
        x = through(self.from_core, x.unflatten(1, core.shape[1:3]), normed=True, residual=middle)
        x = self.look_middle(x.flatten(1, 2), text.words, text.mask).unflatten(1, x.shape[1:3])
        if joint > 1 and self.net.across:
            x = self.across(x.flatten(1, 2), joint=joint).unflatten(1, x.shape[1:3])
        x = through(self.from_middle, self.up_middle(x, condition), normed=True, residual=wide)
        x = self.up_wide(x, condition)  # read without a norm: a pixel's noise must keep its size
        return through(self.answer, x, wide=True), x

    def half_size(
        self,
        z: Tensor,
        log_snr: Tensor,
        text: Text,
        camera: Tensor,
        hint: Tensor | None = None,
        joint: int = 1,
        seen: Tensor | None = None,
    ) -> Tensor:
        """v of half-size states z [B, h, w, 3] of any noise; see `forward`."""
        s = torch.sigmoid(-log_snr).sqrt()[:, None, None, None]
        extra = None if hint is None else through(self.hint_half, hint.to(self.dtype))
        return self._half(self._stem(z, s, extra), *self._told(z, log_snr, text, camera, seen), joint)[0]

    def _seen(self, z: Tensor, fine: Tensor, s: Tensor) -> Tensor:  # [B, H, W, 6]
        """A state, and its 2 x 2 detail in units of the noise: where the picture is flat that is the noise itself,
        however small; edges are bent down to 4."""
        ratio = fine / s
        return torch.cat([z, ratio / (1 + ratio.abs() / 4)], -1).to(self.dtype)

    def forward(
        self,
        z: Tensor,
        alpha_bar: Tensor,
        text: Text,
        camera: Tensor,
        hint: Tensor | None = None,
        joint: int = 1,
        seen: Tensor | None = None,
    ) -> Tensor:
        """v [B, H, W, 3] float32 of states z [B, H, W, 3] float32; alpha_bar [B], camera [B, features of camera and
        moment], hint [B, H, W, hint]. Each `joint` rows that follow one another are one scene.
        `seen` is what `seen` says of the same rows, if the caller has it already."""
        bar = alpha_bar.clamp(1e-9, 1 - 1e-6).float()
        a, s = (value[:, None, None, None] for value in (bar.sqrt(), (1 - bar).sqrt()))
        alike = halves_alike(z, bar, hint)
        few = len(z) // alike  # what is seen before any word is the same for the rest

        def each(x: Tensor) -> Tensor:
            return x if alike == 1 else x.repeat(alike, 1, 1, 1)

        low = pooled(z[:few])
        fine = z[:few] - doubled(low)
        r = radius(a[:few], s[:few])
        x = through(self.head_in, self._seen(z[:few], fine, s[:few]))
        extra = None
        if hint is not None:
            x = through(self.hint_full, hint[:few].to(self.dtype), residual=x)
            extra = through(self.hint_half, pooled(hint[:few]).to(self.dtype))
        extra = through(self.head_down, x, silu=True, residual=extra)
        stem = each(self._stem(low / r, s[:few] / (2 * r), extra))
        low, fine, x, r = each(low), each(fine), each(x), each(r)
        told, text = self._told(low / r, matched_log_snr(bar), text, camera, seen)
        v_half, last = self._half(stem, told, text, joint)
        x = self.head_block(through(self.head_up, last, residual=x), told.condition)
        added = through(self.head_out, x, wide=True)
        guess = doubled(v_of_means(v_half, low, a, s)) + v_of_detail(fine, a, s, self.net.detail)
        return guess + self.net.detail * (a * a * self.net.detail**2 + s * s).rsqrt() * added


def halves_alike(z: Tensor, bar: Tensor, hint: Tensor | None) -> int:
    """2 where the second half of the rows are the states of the first, as a prompt's and nobody's are; else 1. Not
    asked on a GPU, which would wait, nor of what learns."""
    few = len(z) // 2
    if few == 0 or len(z) % 2 or z.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return 1
    told = [x for x in (bar, z, hint) if x is not None]
    return 2 if all(torch.equal(x[:few], x[few:]) for x in told) else 1


def backdrop(z: Tensor, log_snr: Tensor) -> Tensor:  # [M, h, w, 3] -> [M, 3]
    """The best linear guess of the colour around the object (deviation 0.6): from the mean of the outermost pixels."""
    edge = max(1, z.shape[1] // 16)
    inner = z[:, edge:-edge, edge:-edge]
    count = z[0, ..., 0].numel() - inner[0, ..., 0].numel()
    mean = (z.sum((1, 2)) - inner.sum((1, 2))) / count
    a2, s2 = torch.sigmoid(log_snr)[:, None], torch.sigmoid(-log_snr)[:, None]
    return a2.sqrt() * 0.36 / (a2 * 0.36 + s2 / count) * mean


def radius(a: Tensor, s: Tensor) -> Tensor:
    """r: what the 2 x 2 means of a state are divided by to be a state themselves."""
    return (a * a + s * s / 4).sqrt()


def v_of_means(v_half: Tensor, low: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """v_low, the 2 x 2 means of v, from v' of the half-size state and the means `low` of z."""
    r = radius(a, s)
    return v_half / (2 * r) - 0.75 * (a * s / (r * r)) * low


def v_of_detail(fine: Tensor, a: Tensor, s: Tensor, detail: float) -> Tensor:
    """v_fine, the best linear guess of what v is beside its 2 x 2 means."""
    return a * s * (1 - detail**2) / (a * a * detail**2 + s * s) * fine


def laid_out(net: Prior) -> Prior:
    """The same network with its convolutions' weights in channels-last order, as the maps are."""
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


def matched_log_snr(alpha_bar: Tensor) -> Tensor:
    """log(a'^2 / s'^2) of the 2 x 2 means of a state with `alpha_bar`."""
    return torch.log(alpha_bar) - torch.log1p(-alpha_bar) + 2 * math.log(2)
