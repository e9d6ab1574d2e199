# SPDX-License-Identifier: Apache-2.0
"""Distillation steps of the size of latent diffusion models on one GPU, with random weights: time needs shapes only.

    dreamlab bench gpu [--json FILE]        needs a CUDA device and diffusers

Goals G1 to G6: a step against the shape of an incumbent's (eager, float16, a decoded picture nobody uses, scalars read
in every step), smaller encoders, the share of the card's bfloat16 rate, compiling and graphs, four views, and the cost
of other rules. Written without a GPU and never run on one; tests/tools/test_bench_gpu.py runs it on the CPU at a tiny
size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from benchmarks.bench_splat import make_case
from cuda_ext.adam_groups import Group, adam_groups
from cuda_ext.splat import splat
from dreamlab.core.errors import InputError
from dreamlab.metrics.figures import Check

RATE = 790e12  # bfloat16 FLOP/s of an H200, measured
SCALE = 0.18215  # of latents
GUIDANCE = 7.5
REPEATS = 9


@dataclass(frozen=True, eq=False)
class Shape:
    """Of networks and pictures."""

    size: int  # of pictures
    splats: int
    words: tuple[int, int]  # of a prompt, numbers of each
    unet: dict[str, Any]
    vae: dict[str, Any]
    added: dict[str, int] = field(default_factory=dict)  # text_embeds, time_ids: what SDXL is told beside the words


def blocks(kind: str, across: str, *with_attention: bool) -> tuple[str, ...]:
    return tuple(f"CrossAttn{kind}{across}" if attention else f"{kind}{across}" for attention in with_attention)


def encoder(*widths: int) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "latent_channels": 4,
        "layers_per_block": 2,
    }


SD15 = Shape(
    512, 100_000, (77, 768),
    {
        "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": blocks("Down", "Block2D", True, True, True, False),
        "up_block_types": blocks("Up", "Block2D", False, True, True, True),
    },
    encoder(128, 256, 512, 512),
)  # fmt: skip
SDXL = Shape(
    1024, 100_000, (77, 2048),
    {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": blocks("Down", "Block2D", False, True, True),
        "up_block_types": blocks("Up", "Block2D", True, True, False),
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    encoder(128, 256, 512, 512), {"text_embeds": 1280, "time_ids": 6},
)  # fmt: skip


def frozen(network: Any, like: dict[str, Any]) -> Any:
    return network.requires_grad_(False).to(**like)


class Steps:
    """A scene of splats and networks of a shape; each method is one step of a rule on it."""

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype, compiled: bool = False) -> None:
        from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

        torch.manual_seed(0)
        self.shape, self.device, self.dtype = shape, device, dtype
        like = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
        self.unet = frozen(UNet2DConditionModel(**shape.unet), like)
        self.vae = frozen(AutoencoderKL(**shape.vae), like)
        self.tiny = frozen(AutoencoderTiny(), like)
        if compiled:
            self.unet = torch.compile(self.unet, mode="reduce-overhead")
            self.vae.encoder = torch.compile(self.vae.encoder)
        case = make_case(shape.splats, shape.size)
        self.leaves = [t.detach().to(device).requires_grad_() for t in case.tensors.values()]
        self.pose, self.focal = case.poses.to(device), case.focal.to(device)
        zeros = [[torch.zeros_like(t) for t in self.leaves] for _ in range(2)]
        counts = [torch.zeros((), dtype=torch.int64, device=device) for _ in self.leaves]
        self.state = list(zip(*zeros, counts, strict=True))
        self.text = torch.randn(2, *shape.words, device=device, dtype=dtype)
        self.generator = torch.Generator(device).manual_seed(0)
        self.flat = torch.linspace(0.99, 0.01, 1000, device=device)  # the share of the signal at a time

    def rendered(self, views: int) -> Tensor:
        at, turn, scale, opacity, colour = self.leaves
        pose, focal = self.pose.expand(views, -1, -1), self.focal.expand(views)
        size = (self.shape.size, self.shape.size)
        return splat(at, turn, scale, opacity, colour, pose, focal, size).rgb.permute(0, 3, 1, 2)

    def encoded(self, rgb: Tensor, how: str) -> Tensor:
        """exact, tiny, or hybrid: the exact latents with the small encoder's gradient."""
        given = rgb.to(self.dtype)
        if how == "exact":
            return self.vae.encode(2 * given - 1).latent_dist.mean * SCALE
        small = self.tiny.encode(2 * given - 1).latents
        if how == "tiny":
            return small
        with torch.no_grad():
            exact = self.vae.encode(2 * given - 1).latent_dist.mean * SCALE
        return small + (exact - small).detach()

    def predicted(self, z_t: Tensor, t: Tensor, words: Tensor) -> Tensor:
        how = {name: z_t.new_zeros(len(z_t), width) for name, width in self.shape.added.items()}
        more = {"added_cond_kwargs": how} if how else {}
        return self.unet(z_t, t, words, return_dict=False, **more)[0]

    def guided(self, z_t: Tensor, t: Tensor, scale: float = GUIDANCE) -> Tensor:
        """Both halves of the guidance in one call."""
        words = self.text.repeat_interleave(len(z_t), 0)
        told, null = self.predicted(z_t.repeat(2, 1, 1, 1), t.repeat(2), words).chunk(2)
        return null + scale * (told - null)

    def noised(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents with noise, the noise, the times."""
        t = torch.randint(20, 980, (len(z),), generator=self.generator, device=self.device)
        noise = torch.randn(z.shape, generator=self.generator, device=self.device, dtype=torch.float32).to(z.dtype)
        signal = self.flat[t].to(z.dtype).view(-1, 1, 1, 1)
        return signal.sqrt() * z + (1 - signal).sqrt() * noise, noise, t

    def optimised(self) -> None:
        groups = []
        for leaf, (first, second, count) in zip(self.leaves, self.state, strict=True):
            assert leaf.grad is not None
            groups.append(Group(leaf.detach(), leaf.grad, first, second, count, 1e-3))
            leaf.grad = None
        adam_groups(groups, torch.ones((), dtype=torch.bool, device=self.device))

    def sds(self, views: int = 1, how: str = "exact", inversions: int = 0, learning: bool = False) -> None:
        """`inversions`: predictions before it, one after the other (ISM); `learning`: a second network that is asked
        and trained (VSD). Of its training only what goes through the activations is done: adapters are small."""
        z = self.encoded(self.rendered(views), how)
        with torch.no_grad():
            z_t, noise, t = self.noised(z.detach())
            for _ in range(inversions):
                z_t = z_t - 0.01 * self.predicted(z_t, t, self.text[:1].expand(views, -1, -1))
            target = self.guided(z_t, t) - (self.guided(z_t, t, 1.0) if learning else noise)
        if learning:
            leaf = z_t.detach().requires_grad_()
            told = self.text[:1].expand(views, -1, -1)
            torch.autograd.grad(mse_loss(self.predicted(leaf, t, told).float(), noise.float()), leaf)
        z.backward(target)
        self.optimised()

    def incumbent(self) -> dict[str, float]:
        """The same gradient as the loops of the field come to it: the halves of the guidance apart, a picture decoded
        for nothing, a loss whose gradient is the one that is known, numbers read every step."""
        z = self.encoded(self.rendered(1), "exact")
        with torch.no_grad():
            z_t, noise, t = self.noised(z)
            told, null = (self.predicted(z_t, t, self.text[i : i + 1]) for i in range(2))
            grad = null + GUIDANCE * (told - null) - noise
            self.vae.decode(((z_t - grad) / SCALE).to(self.dtype))
        loss = 0.5 * mse_loss(z.float(), (z - grad).detach().float(), reduction="sum")
        loss.backward()
        read = {"loss": loss.item(), "norm": grad.norm().item(), "t": float(t.float().mean())}
        self.optimised()
        return read

    def flops(self, views: int) -> float:
        """Of the networks in one exact step, counted by torch."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.sds(views)
        return float(counter.get_total_flops())


def seconds(calls: dict[str, Callable[[], object]], device: str, repeats: int = REPEATS) -> dict[str, list[float]]:
    """Times of calls in turn, by events on a device."""
    for _ in range(3 if device == "cuda" else 1):
        for call in calls.values():
            call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            if device == "cuda":
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                call()
                end.record()
                end.synchronize()
                found[name].append(start.elapsed_time(end) / 1e3)
            else:
                began = time.perf_counter()
                call()
                found[name].append(time.perf_counter() - began)
    return found


def ratio(name: str, slow: list[float], fast: list[float], floor: float | None, better: str = "higher") -> Check:
    pairs = [s / f for s, f in zip(slow, fast, strict=True)]
    details: dict[str, object] = {"slow_ms": 1e3 * statistics.median(slow), "fast_ms": 1e3 * statistics.median(fast)}
    details["quartiles"] = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs
    return Check(name, round(statistics.median(pairs), 3), "x", floor, better, "", details)


def goals(ours: Steps, eager: Steps, old: Steps, large: Steps, device: str, repeats: int = REPEATS) -> list[Check]:
    """`ours` compiled, `eager` the same not, `old` in the incumbent's number format, `large` of another model."""
    flops = {views: ours.flops(views) for views in (1, 4)}
    calls: dict[str, Callable[[], object]] = {
        "old": old.incumbent,
        "eager": eager.sds,
        "eager4": lambda: eager.sds(4),
        "exact": ours.sds,
        "four": lambda: ours.sds(4),
        "tiny": lambda: ours.sds(how="tiny"),
        "hybrid": lambda: ours.sds(how="hybrid"),
        "vsd": lambda: ours.sds(learning=True),
        "ism": lambda: ours.sds(inversions=6),
        "large": large.sds,
    }
    t = seconds(calls, device, repeats)
    share = {views: flops[views] / statistics.median(t[name]) / RATE for views, name in ((1, "exact"), (4, "four"))}
    return [
        ratio("G1_exact_vs_incumbent", t["old"], t["exact"], 2.0),
        ratio("G2_small_encoder_vs_incumbent", t["old"], t["tiny"], 3.5),
        ratio("G2_hybrid_encoder_vs_incumbent", t["old"], t["hybrid"], 2.4),
        Check("G3_share_of_rate_1_view", round(share[1], 3), "", 0.35, details={"flops": flops[1]}),
        Check("G3_share_of_rate_4_views", round(share[4], 3), "", 0.45, details={"flops": flops[4]}),
        ratio("G4_compiled_vs_eager_1_view", t["eager"], t["exact"], 1.5),
        ratio("G4_compiled_vs_eager_4_views", t["eager4"], t["four"], 1.25),
        ratio("G5_4_views_over_1", t["four"], t["exact"], 3.2, "lower"),
        ratio("G6_vsd_over_sds", t["vsd"], t["exact"], 1.9, "lower"),
        ratio("G6_ism_over_sds", t["ism"], t["exact"], 2.35, "lower"),
        ratio("G6_sdxl_over_sd15", t["large"], t["exact"], 6.2, "lower"),
    ]


def measure() -> list[Check]:
    if not torch.cuda.is_available():
        raise InputError("bench gpu: torch sees no CUDA device, and it compares steps of that size on one only")
    half, brain = torch.float16, torch.bfloat16
    ours, eager = Steps(SD15, "cuda", brain, compiled=True), Steps(SD15, "cuda", brain)
    return goals(ours, eager, Steps(SD15, "cuda", half), Steps(SDXL, "cuda", brain, compiled=True), "cuda")
