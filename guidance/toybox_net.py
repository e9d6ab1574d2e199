# SPDX-License-Identifier: Apache-2.0
"""The network of the embedded prior: words and a camera in, the velocity v = a n - s x0 of a noisy picture out.

Two levels of convolutions (48, 96) around a transformer trunk of 8 x 8 tokens work at half the picture's size; each
trunk block looks at single words (colour sits beside its noun), and so does the level above on the way up. A thin head
works at full size and starts at zero: the whole then answers with the half-size net, run at matched noise (below),
and a linear guess of the detail. Maps are [B, H, W, C] throughout, so that norms and matrix products see them flat.

Matched noise. Averaging 2 x 2 pixels of z = a x + s n halves the noise and keeps the picture: mean z = a x' + (s/2) n'.
Divided by r = sqrt(a^2 + s^2/4) it is a variance-preserving state of the small picture with a' = a/r, s' = s/2r, whose
logarithmic signal-to-noise is that of z plus 2 log 2. From v' of that state the block means of v follow exactly:

    v_low = v' / 2r - (3/4) (a s / r^2) mean z

What is left of z in each block, z_fine, holds detail of deviation d and noise; for Gaussian detail the best answer is

    v_fine = a s (1 - d^2) / (a^2 d^2 + s^2) z_fine,  and its error has deviation d / sqrt(a^2 d^2 + s^2),

which scales what the head adds.

Rays. Each token and each cell of the level above is told the line through the world that it looks along: a part of an
object stays where it is in the world whatever the camera, so the network need not learn from angles where it projects.

Across. Pictures of a group share the trunk's attention over 8 x 8 tokens: enough for what an object is, too coarse for
where its edges are. A network may look once more, at all cells of the level above, before it goes up.

Attention is written as plain matrix products: on a CPU their backward pass is three
times as fast as the fused one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core.cameras import Cameras
from guidance.toybox_words import NULL, PAD

CAMERA_FEATURES = 16
HINT_CHANNELS = 9  # of a surface: depth, normal, mask; of another picture of the object: colour, and that it is there
RAY_CHANNELS = 24
HARMONICS = (1, 2, 3, 4)  # of the azimuth: a four-fold solid repeats every 90 degrees


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
    across: bool = False  # pictures of a group see each other at a quarter of their size, too

    @property
    def half(self) -> int:
        return self.size // 2


@dataclass(frozen=True)
class Text:
    """Encoded captions."""

    words: Tensor  # [M, L, D]
    mask: Tensor  # [M, L] 0 or -inf, added to the scores


@dataclass(frozen=True)
class Told:
    """What every level of the network is told of a state beside the words."""

    condition: Tensor  # [M, C] time, camera, caption and backdrop
    rays: Tensor | None  # [M, h, w, RAY_CHANNELS] of the cells at a quarter of the picture's size


def camera_features(cameras: Cameras) -> Tensor:  # [B, CAMERA_FEATURES]
    """Harmonics of azimuth and elevation, distance, field of view, apparent size, one; all zero means "not told"."""
    azimuth, elevation = torch.deg2rad(cameras.azimuth_deg), torch.deg2rad(cameras.elevation_deg)
    turns = [f(k * azimuth) for k in HARMONICS for f in (torch.sin, torch.cos)]
    lifts = [f(k * elevation) for k in (1, 2) for f in (torch.sin, torch.cos)]
    seen = cameras.distance * torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)  # half the height of the view, metres
    lens = [(cameras.distance - 3.3) / 0.5, (cameras.fovy_deg - 42.0) / 6.0, 4.0 * torch.log(seen / 1.27)]
    return torch.stack([*turns, *lifts, *lens, torch.ones_like(azimuth)], -1)


def turned_features(cameras: Cameras, first_azimuth_deg: Tensor) -> Tensor:  # [B, CAMERA_FEATURES]
    """As `camera_features` with azimuths counted from that of a given picture; a last feature of -1 says so."""
    features = camera_features(replace(cameras, azimuth_deg=cameras.azimuth_deg - first_azimuth_deg))
    return torch.cat([features[:, :-1], -features[:, -1:]], -1)


class Conv(nn.Conv2d):
    """3 x 3 over [B, H, W, C]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, stride, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def hint_of(depth: Tensor, normal: Tensor, alpha: Tensor, cameras: Cameras) -> Tensor:  # [B, H, W, HINT_CHANNELS]
    """What the control role is told of a surface: how far it lies before the orbit's centre, its normal as the camera
    sees it, and where it is. depth [B, H, W, 1] camera z, normal [B, H, W, 3] world, alpha [B, H, W, 1]."""
    there = alpha > 0.5
    before = cameras.distance[:, None, None, None] - depth
    turned = torch.einsum("bji,bhwj->bhwi", cameras.camera_to_world[:, :3, :3].to(normal), normal)
    return F.pad(torch.cat([before * there, turned * there, alpha], -1), (0, 4))


def hint_of_picture(picture: Tensor) -> Tensor:  # [B, H, W, 3] in [-1, 1] -> [B, H, W, HINT_CHANNELS]
    """What the novel role is told of a picture beside it: the given one, pixel for pixel."""
    return torch.cat([F.pad(picture, (HINT_CHANNELS - 4, 0)), torch.ones_like(picture[..., :1])], -1)


def ray_features(camera: Tensor, cells: int) -> Tensor:  # [B, CAMERA_FEATURES] -> [B, cells, cells, RAY_CHANNELS]
    """Of the line through each cell's centre: its point nearest to the orbit's centre, direction, and waves of both;
    zero where no camera is told. Azimuths may be counted from a given picture: then so is the world."""
    camera = camera.float()
    (sin_a, cos_a), (sin_e, cos_e) = camera[:, 0:2].unbind(1), camera[:, 8:10].unbind(1)
    distance, fovy, zero = 0.5 * camera[:, 12] + 3.3, 6.0 * camera[:, 13] + 42.0, torch.zeros_like(sin_a)
    right = torch.stack([cos_a, zero, -sin_a], 1)
    back = torch.stack([cos_e * sin_a, sin_e, cos_e * cos_a], 1)
    up = torch.stack([-sin_e * sin_a, cos_e, -sin_e * cos_a], 1)
    place = (torch.arange(cells, device=camera.device) + 0.5) * (2 / cells) - 1
    slope = torch.tan(torch.deg2rad(fovy) / 2)[:, None] * place
    across, above = slope[:, None, :, None] * right[:, None, None], -slope[:, :, None, None] * up[:, None, None]
    direction = F.normalize(across + above - back[:, None, None], dim=-1)
    origin = (distance[:, None] * back)[:, None, None]
    near = origin - (origin * direction).sum(-1, keepdim=True) * direction
    waves = [f(k * math.pi * x) for k, x in ((1, near), (2, near), (1, direction)) for f in (torch.sin, torch.cos)]
    return torch.cat([near, direction, *waves], -1) * camera[:, -1].abs()[:, None, None, None]


def moment_features(time: Tensor, harmonics: int) -> Tensor:  # [B] in [0, 1) -> [B, 2 harmonics]
    """Sine and cosine of the time within a clip that repeats."""
    angle = 2 * math.pi * time[:, None] * torch.arange(1, harmonics + 1, device=time.device)
    return torch.cat([angle.sin(), angle.cos()], -1)


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def pooled(x: Tensor) -> Tensor:  # [B, H, W, C] -> [B, H/2, W/2, C]
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def doubled(x: Tensor) -> Tensor:  # [B, H, W, C] -> [B, 2H, 2W, C]
    b, h, w, c = x.shape
    return x[:, :, None, :, None].expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c)


class Up(nn.Linear):
    """Each cell of [B, H, W, inputs] tells each of its four children [B, 2H, 2W, outputs] something of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, 4 * outputs)
        with torch.no_grad():  # the four begin alike
            self.weight.copy_(self.weight[:outputs].repeat(4, 1))
            self.bias.copy_(self.bias[:outputs].repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        children = super().forward(x).reshape(b, h, w, 2, 2, -1)
        return children.permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Attention(nn.Module):
    """From maps of `width` channels to themselves, or to a sequence of `source` channels; heads of 56 or so."""

    def __init__(self, width: int, source: int | None = None) -> None:
        super().__init__()
        self.heads = max(1, width // 56)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(source or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1))

        key, value = self.kv(x if source is None else source).chunk(2, -1)
        q, k = norm(split(self.q(x))).transpose(1, 2), norm(split(key)).transpose(1, 2)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask[:, None, None, :].to(scores.dtype)
        seen = scores.softmax(-1).to(value.dtype) @ split(value).transpose(1, 2)
        return self.out(seen.transpose(1, 2).flatten(2))


class WordBlock(nn.Module):
    """Pre-norm transformer block over the words of a caption."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(norm(x), mask=mask)
        return x + self.down(F.relu(self.up(norm(x))).square())


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
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        with torch.no_grad():
            self.shift[2], self.shift[5] = 1.0, 1.0
            for layer in (self.attention.out, self.look.out, self.down):
                layer.weight.mul_(0.3)

    def forward(self, x: Tensor, modulation: Tensor, text: Text, joint: int = 1) -> Tensor:  # [B, N, C], [B, 6, C]
        a, b, gate, c, d, gate_mlp = (modulation + self.shift.to(modulation.dtype)).unsqueeze(2).unbind(1)
        seen = norm(x) * (1 + a) + b
        x = x + gate * self.attention(seen.reshape(-1, joint * seen.shape[1], seen.shape[2])).reshape(x.shape)
        x = x + self.look(norm(x), text.words, text.mask)
        return x + gate_mlp * self.down(F.relu(self.up(norm(x) * (1 + c) + d)).square())


class ConvBlock(nn.Module):
    """Two convolutions, the first one's input scaled and shifted by time and camera."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.modulate = nn.Linear(condition, 2 * width)
        self.first, self.second = Conv(width, width), Conv(width, width)
        _zero(self.modulate)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulate(condition)[:, None, None].chunk(2, -1)
        return x + self.second(F.silu(self.first(F.silu(norm(x) * (1 + scale) + shift))))


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
            self.ray_middle, self.ray_core = (nn.Linear(net.rays, width, bias=False) for width in (net.middle, c))
            started += [self.ray_middle, self.ray_core]
        if net.across:
            self.across = Attention(net.middle)
            started += [self.across.out]
        for layer in started:
            _zero(layer)

    @property
    def dtype(self) -> torch.dtype:
        return self.place.dtype

    def text(self, ids: Tensor) -> Text:
        return self.encoder(ids)

    def null_ids(self, rows: int = 1) -> Tensor:
        return torch.full((rows, 1), NULL, device=self.place.device)

    def _told(self, z: Tensor, log_snr: Tensor, text: Text, camera: Tensor) -> tuple[Told, Text]:
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
        rays = ray_features(camera[:, :CAMERA_FEATURES], z.shape[1] // 2).to(self.dtype) if self.net.rays else None
        return Told(condition, rays), Text(words, F.pad(text.mask, (0, 1)))

    def _half(
        self, z: Tensor, s: Tensor, told: Told, text: Text, joint: int, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """v [B, h, w, 3] of a half-size state, and the last map; `extra` is what else the stem is told."""
        condition = told.condition
        x = self.stem(self._seen(z, z - doubled(pooled(z)), s))
        wide = x if extra is None else x + extra
        middle = self.to_middle(F.silu(wide))
        if told.rays is not None:
            middle = middle + self.ray_middle(told.rays)
        middle = self.down_middle(middle, condition)
        core = self.to_core(middle)
        if told.rays is not None:
            core = core + self.ray_core(pooled(told.rays))
        x = core.flatten(1, 2) + self.place.to(core.dtype)
        modulation = self.modulate(condition).unflatten(-1, (6, -1))
        for block in self.trunk:
            x = block(x, modulation, text, joint)
        x = middle + self.from_core(norm(x).unflatten(1, core.shape[1:3]))
        x = x + self.look_middle(norm(x).flatten(1, 2), text.words, text.mask).unflatten(1, x.shape[1:3])
        if joint > 1 and self.net.across:
            x = x + self.across(norm(x).reshape(len(x) // joint, -1, x.shape[-1])).reshape(x.shape)
        x = wide + self.from_middle(norm(self.up_middle(x, condition)))
        x = self.up_wide(x, condition)  # read without a norm: a pixel's noise must keep its size
        return self.answer(x).float(), x

    def half_size(
        self, z: Tensor, log_snr: Tensor, text: Text, camera: Tensor, hint: Tensor | None = None, joint: int = 1
    ) -> Tensor:
        """v of half-size states z [B, h, w, 3] of any noise; see `forward`."""
        s = torch.sigmoid(-log_snr).sqrt()[:, None, None, None]
        extra = None if hint is None else self.hint_half(hint.to(self.dtype))
        return self._half(z, s, *self._told(z, log_snr, text, camera), joint, extra)[0]

    def _seen(self, z: Tensor, fine: Tensor, s: Tensor) -> Tensor:  # [B, H, W, 6]
        """A state, and its 2 x 2 detail in units of the noise: where the picture is flat that is the noise itself,
        however small; edges are bent down to 4."""
        ratio = fine / s
        return torch.cat([z, ratio / (1 + ratio.abs() / 4)], -1).to(self.dtype)

    def forward(
        self, z: Tensor, alpha_bar: Tensor, text: Text, camera: Tensor, hint: Tensor | None = None, joint: int = 1
    ) -> Tensor:
        """v [B, H, W, 3] float32 of states z [B, H, W, 3] float32; alpha_bar [B], camera [B, features of camera and
        moment], hint [B, H, W, hint]. Each `joint` rows that follow one another are one scene."""
        bar = alpha_bar.clamp(1e-9, 1 - 1e-6).float()
        a, s = (value[:, None, None, None] for value in (bar.sqrt(), (1 - bar).sqrt()))
        low = pooled(z)
        fine = z - doubled(low)
        r = radius(a, s)
        told, text = self._told(low / r, matched_log_snr(bar), text, camera)
        x = self.head_in(self._seen(z, fine, s))
        extra = None
        if hint is not None:
            x = x + self.hint_full(hint.to(self.dtype))
            extra = self.hint_half(pooled(hint).to(self.dtype))
        down = self.head_down(F.silu(x))
        v_half, last = self._half(low / r, s / (2 * r), told, text, joint, down if extra is None else down + extra)
        x = self.head_block(x + self.head_up(last), told.condition)
        added = self.head_out(x).float()
        guess = doubled(v_of_means(v_half, low, a, s)) + v_of_detail(fine, a, s, self.net.detail)
        return guess + self.net.detail * (a * a * self.net.detail**2 + s * s).rsqrt() * added


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
