# SPDX-License-Identifier: Apache-2.0
"""One file with a whole model in it, as the original repositories and most sites share them.

What it is follows from the names and shapes in its header; nothing else is read for that. Its parts come out under
diffusers' names with a configuration from their shapes, so that networks are built here and filled tensor by tensor:
what is missing, unknown or misshapen is one error.
SD 2.1 for 512 pixels (predicts noise) and for 768 (predicts velocity) have the same names, shapes and size: the file
does not tell which it is, and a wrong guess optimises towards nonsense, so the user's setting must.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from dreamlab.core.files import Json
from guidance.latent import inferred, ldm_names
from guidance.latent.built import built, filled
from guidance.latent.file_kinds import WHOLE, hint, recognise
from guidance.latent.ip_files import with_pictures
from guidance.latent.loading import ModelFolder
from guidance.latent.tensor_files import Tensors, opened
from guidance.latent.vocabulary import END, clip_tokenizer

SIZES = {"sd1": 64, "sd2": 64, "sdxl": 128, "mvdream": 32, "imagedream": 32, "zero123": 32}  # of their latents
QUICK, EXACT = "quick_gelu", "gelu"  # OpenAI's CLIP, OpenCLIP
UNTOLD = "say `prediction: epsilon` (the one for 512 pixels) or `prediction: v_prediction` (768): both files look alike"
KINDS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
    "image_encoder": "CLIPVisionModelWithProjection",
}
VIDEO = "UNetSpatioTemporalConditionModel"
PLACES = {
    "unet": (ldm_names.UNET,),
    "vae": ldm_names.VAES,
    "text_encoder": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
    "image_encoder": ("cond_stage_model.model.visual.", "clip_model.model.visual."),
    "cc_projection": ("cc_projection.",),
}
OPEN_CLIP = ("cond_stage_model.model.", "clip_model.model.")  # where a text tower of its names stands


@dataclass(frozen=True)
class SingleFile(ModelFolder):
    """A whole model in one file, with the answers of a folder."""

    file: Tensors = field(kw_only=True)
    kind: str = field(kw_only=True)
    prediction: str = field(kw_only=True)
    ema: bool = field(kw_only=True, default=False)
    tokens: str = field(kw_only=True, default="")  # the folder of a tokenizer, instead of CLIP's own

    def has(self, part: str) -> bool:
        return part.startswith("tokenizer") or self._prefix(part) is not None

    def index(self) -> Json:
        return {"force_zeros_for_empty_prompt": True} if self.kind == "sdxl" else {}

    def config(self, part: str) -> Json:
        """A part's configuration, from shapes alone."""
        if part == "scheduler":
            return self._scheduler()
        try:
            return self._config(part, self._renamed(part, self.file.shapes))
        except (KeyError, StopIteration, IndexError, ValueError) as error:
            lacks = error or "all of its layers"
            raise ModelError(f"{self.path}: its {part} lacks {lacks}; get the file again") from None

    def network(self, part: str, kinds: Sequence[str], dtype: torch.dtype) -> nn.Module:
        kind = VIDEO if part == "unet" and self.kind == "sv3d" else KINDS.get(part, part)
        if kind not in kinds:
            raise ModelError(f"{self.path}: a {kind} cannot be a {' or '.join(kinds)}")
        net = self.filled(part, dtype)
        if part == "unet" and self.kind == "imagedream":
            body = self._body(self.file.read(self._names(part)))
            return with_pictures(net, *ldm_names.image_prompt(body), str(self.path))
        return net

    def encoder(self, part: str, kind: str, dtype: torch.dtype) -> nn.Module:
        return self.network(part, (kind,), dtype)

    def filled(self, part: str, dtype: torch.dtype) -> nn.Module:
        """A part as a frozen network: one of KINDS, or cc_projection."""
        return filled(built(part, self.config(part)), self.state(part), dtype, f"{self.path} ({part})")

    def tokenizer(self, part: str, kind: str) -> Any:
        """The file has none; all of these kinds use CLIP's, and how a text is filled up follows from its encoder."""
        open_clip = part.endswith("_2") or self._prefix("text_encoder") in OPEN_CLIP
        if not self.tokens:
            return clip_tokenizer("!" if open_clip else END)
        place = Path(self.tokens)
        within = place / (part if (place / part).is_dir() else "tokenizer")
        place = within if within.is_dir() else place
        made = ModelFolder(place.parent).tokenizer(place.name, kind)
        made.pad_token = "!" if open_clip else made.eos_token
        return made

    def state(self, part: str) -> dict[str, Tensor]:
        """A part's tensors under diffusers' names, of the file's dtype, as views of the mapped file."""
        return self._renamed(part, self.file.read(self._names(part)))

    def _scheduler(self) -> Json:
        """The noise it was trained with; all these kinds have the same."""
        return {
            "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
            "num_train_timesteps": 1000, "prediction_type": self.prediction, "clip_sample": False, "steps_offset": 1,
            "set_alpha_to_one": False,
        }  # fmt: skip

    def _prefix(self, part: str) -> str | None:
        """Where a part stands."""
        shapes = self.file.shapes
        if part == "text_encoder":
            found = next((p for p in OPEN_CLIP if f"{p}transformer.resblocks.0.ln_1.weight" in shapes), None)
            if found:
                return found
        return next((p for p in PLACES.get(part, ()) if any(name.startswith(p) for name in shapes)), None)

    def _names(self, part: str) -> list[str]:
        prefix = self._there(part)
        prefixes = (prefix, ldm_names.EMA) if part == "unet" and self.ema else (prefix,)
        return [name for name in self.file.shapes if name.startswith(prefixes)]

    def _there(self, part: str) -> str:
        prefix = self._prefix(part)
        if prefix is None:
            raise ModelError(f"{self.path}: holds no {part}; a {self.kind} file should: take another one")
        return prefix

    def _body(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return ldm_names.averaged(state) if self.ema else ldm_names.under(state, ldm_names.UNET)

    def _renamed(self, part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefix = self._there(part)
        own = self._body(state) if part == "unet" else ldm_names.under(state, prefix)
        if part == "text_encoder" and prefix not in OPEN_CLIP:
            return ldm_names.clip_text(own)
        renames: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
            "unet": ldm_names.unet,
            "vae": ldm_names.vae,
            "text_encoder": lambda state: ldm_names.open_clip_text(state, drop=1),
            "text_encoder_2": ldm_names.projected_text,
            "image_encoder": ldm_names.clip_vision,
            "cc_projection": dict,
        }
        return renames[part](own)

    def _config(self, part: str, state: Mapping[str, Tensor]) -> Json:
        size = 96 if self.kind == "sd2" and self.prediction == "v_prediction" else SIZES[self.kind]
        if part == "unet":
            pooled = self.file.shapes.get("conditioner.embedders.1.model.text_projection")
            return inferred.unet(state, size) if pooled is None else inferred.unet(state, size, pooled.shape[1])
        if part == "vae":
            return inferred.vae(state, 8 * size, 0.13025 if self.kind == "sdxl" else 0.18215)
        if part == "image_encoder":
            return inferred.vision(state, EXACT if self.kind == "imagedream" else QUICK)
        if part == "cc_projection":
            return {"in_features": state["weight"].shape[1], "out_features": state["weight"].shape[0]}
        exact = part == "text_encoder_2" or self._prefix(part) in OPEN_CLIP
        return inferred.text(state, EXACT if exact else QUICK)


def single(
    path: Path,
    wanted: Sequence[str] = WHOLE,
    *,
    legacy: str = "",
    ema: bool = False,
    prediction: str = "",
    tokens: str = "",
) -> SingleFile:
    """A file, if it is of a kind that is wanted."""
    file = opened(path, legacy == path.name)
    kind = recognise(file.shapes)
    if kind not in WHOLE:
        raise ModelError(f"{path}: is {hint(file.shapes)}")
    if kind not in wanted:
        takes = f"this family takes {' or '.join(wanted)}" if wanted else "this family is read from a folder only"
        raise ModelError(f"{path}: is a {kind} model; {takes}")
    # Zero123 was meant to be used by its averages, and its files have both.
    ema = ema or (kind == "zero123" and any(name.startswith(ldm_names.EMA) for name in file.shapes))
    if kind == "sv3d":
        from guidance.latent.orbit_file import OrbitFile

        return OrbitFile(path, legacy, file=file, kind=kind, prediction="v_prediction")
    told = prediction or ("v_prediction" if "v_pred" in file.shapes else "" if kind == "sd2" else "epsilon")
    if not told:
        raise ModelError(f"{path}: is SD 2, and does not tell what it predicts; {UNTOLD}")
    return SingleFile(path, legacy, file=file, kind=kind, prediction=told, ema=ema, tokens=tokens)
