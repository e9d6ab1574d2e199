# SPDX-License-Identifier: Apache-2.0
"""CLIP scores of assets, for prompts that no toy world knows: similarity, T3Bench's quality, R-precision.

The quality follows T3Bench (He et al. 2023, arXiv:2310.02977): views from the vertices of an icosphere at a few focal
lengths, the best focal length of each vertex, three passes of averaging with the neighbouring vertices, the maximum.
Its 162 vertices and five focal lengths are `level=2, zooms=T3BENCH_ZOOMS`; the default is 42 vertices and one. T3Bench
itself scores with ImageReward; figures made with CLIP compare with each other only.

The checkpoint is a folder as transformers writes it (config.json, model.safetensors, tokenizer and preprocessor
files); nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamlab.core.cameras import Cameras, orbit
from dreamlab.core.errors import InputError, ModelError
from dreamlab.metrics.asset import DISTANCE, FOVY_DEG, Asset

PASSES = 3
T3BENCH_ZOOMS = (0.8, 0.9, 1.0, 1.1, 1.2)
NEEDED = ("config.json", "preprocessor_config.json")
CHUNK = 16


@dataclass(frozen=True)
class ClipFigures:
    """Of one asset and its prompt. Cosines, times 100 as CLIP scores are quoted."""

    similarity: float  # mean over the views
    quality: float  # T3Bench's smoothed maximum
    r_precision: float  # share of the views whose likeliest prompt is the asset's own
    retrieved: bool  # the same of the mean over all views
    views: int


class Clip:
    """Unit embeddings of texts and pictures."""

    def __init__(self, model: Any, tokenizer: Any, preprocessing: dict[str, Any]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.size = int(model.config.vision_config.image_size)
        self.mean, self.std = (torch.tensor(preprocessing[name]) for name in ("image_mean", "image_std"))

    @property
    def device(self) -> torch.device:
        place: torch.device = self.model.logit_scale.device
        return place

    def texts(self, prompts: Sequence[str]) -> Tensor:  # [P, D]
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=self._longest())
        ids = torch.tensor(tokens["input_ids"], device=self.device)
        mask = torch.tensor(tokens["attention_mask"], device=self.device)
        with torch.no_grad():
            return _unit(self.model.get_text_features(input_ids=ids, attention_mask=mask))

    def pictures(self, rgb: Tensor) -> Tensor:
        """[B, H, W, 3] square, sRGB in [0, 1] -> [B, D]; resized as the checkpoint wants it (bicubic, antialiased)."""
        found = []
        for part in rgb.split(CHUNK):
            x = part.to(self.device).permute(0, 3, 1, 2).float()
            if x.shape[-1] != self.size:
                x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
            mean, std = (value.to(x)[:, None, None] for value in (self.mean, self.std))
            with torch.no_grad():
                found.append(_unit(self.model.get_image_features(pixel_values=(x - mean) / std)))
        return torch.cat(found)

    def _longest(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)


def load_clip(folder: Path | str, device: str = "cpu") -> Clip:
    """A CLIP checkpoint from a folder; ModelError says in one line what is missing."""
    folder = Path(folder)
    for name in NEEDED:
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: no {name}; give a CLIP checkpoint folder as transformers saves it")
    try:
        from safetensors import SafetensorError
        from transformers import CLIPModel, CLIPTokenizer
    except ImportError:
        raise ModelError(
            "CLIP scores need the package transformers; pip install transformers (the extra `models`)"
        ) from None
    try:
        model: Any = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        preprocessing = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        return Clip(model.to(device), tokenizer, preprocessing)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{folder}: not a readable CLIP checkpoint ({str(error).splitlines()[0][:160]})") from None


def sphere(level: int) -> tuple[Tensor, list[list[int]]]:
    """Vertices [N, 3] of an icosahedron subdivided `level` times (12, 42, 162, ...) and the neighbours of each."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=level)
    return torch.tensor(ball.vertices).float(), [sorted(int(j) for j in near) for near in ball.vertex_neighbors]


def sphere_cameras(vertices: Tensor, zoom: float = 1.0) -> Cameras:
    """One camera at each vertex, looking at the middle; `zoom` multiplies the focal length."""
    azimuth = torch.rad2deg(torch.atan2(vertices[:, 0], vertices[:, 2]))
    elevation = torch.rad2deg(torch.asin(vertices[:, 1].clamp(-1, 1)))
    half = torch.deg2rad(torch.tensor(FOVY_DEG / 2)).tan() / zoom
    return orbit(azimuth.tolist(), elevation.tolist(), DISTANCE, float(2 * torch.rad2deg(half.atan())))


def smoothed_best(scores: Tensor, neighbours: Sequence[Sequence[int]], passes: int = PASSES) -> float:
    """Every vertex's score [N] averaged with its neighbours' `passes` times; the largest."""
    mix = torch.eye(len(scores), dtype=torch.float64)
    for i, near in enumerate(neighbours):
        mix[i, list(near)] = 1.0
        mix[i] /= len(near) + 1
    scores = scores.double().cpu()
    for _ in range(passes):
        scores = mix @ scores
    return float(scores.max())


def clip_figures(
    asset: Asset,
    prompt: str,
    distractors: Sequence[str],
    clip: Clip,
    *,
    level: int = 1,
    zooms: Sequence[float] = (1.0,),
) -> ClipFigures:
    """Score an asset from all around against its prompt, among prompts that it is not."""
    if prompt in distractors:
        raise InputError(f"clip: the prompt {prompt!r} is among its own distractors")
    vertices, neighbours = sphere(level)
    texts = clip.texts([prompt, *distractors])
    similar = []
    for zoom in zooms:
        rgb = _views(asset, sphere_cameras(vertices, zoom), clip.size)
        similar.append(100 * clip.pictures(rgb) @ texts.T)  # [N, 1 + D]
    table = torch.stack(similar)  # [Z, N, 1 + D]
    every = table.flatten(0, 1)
    return ClipFigures(
        similarity=float(every[:, 0].mean()),
        quality=smoothed_best(table[..., 0].amax(0), neighbours),
        r_precision=float((every.argmax(1) == 0).float().mean()),
        retrieved=int(every.mean(0).argmax()) == 0,
        views=len(every),
    )


def _views(asset: Asset, cameras: Cameras, size: int) -> Tensor:
    """[N, S, S, 3] over white."""
    found, device = [], asset.device
    for start in range(0, len(cameras), CHUNK):
        some = cameras[start : start + CHUNK].to(device)
        with torch.no_grad():
            found.append(asset.render(some, size, torch.ones(len(some), 3, device=device)).rgb.cpu())
    return torch.cat(found)


def _unit(features: Any) -> Tensor:
    """Unit rows; transformers answers with a tensor or, since 5.0, with an output that holds one."""
    rows = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(rows.float(), dim=-1)
