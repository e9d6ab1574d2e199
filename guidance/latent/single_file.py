# SPDX-License-Identifier: Apache-2.0
"""One file with a whole model in it, as the original repositories and most sites share them.

What it is follows from the names and shapes in its header; nothing else is read for that. Its parts come out under
diffusers' names with a configuration from their shapes, so that networks are built here and filled tensor by tensor:
what is missing, unknown or misshapen is one error. A pickle is opened only where the user says so, as plain tensors.
SD 2.1 for 512 pixels (predicts noise) and for 768 (predicts velocity) have the same names, shapes and size: the file
does not tell which it is, and a wrong guess optimises towards nonsense, so the user's setting must.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from guidance.latent import inferred, ldm_names
from guidance.latent.built import built, filled

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
MOST_HEADER = 100_000_000  # bytes of a header, the format's own limit
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
WHOLE = ("sd1", "sd2", "sdxl", "mvdream", "imagedream", "zero123")  # kinds that hold all that a family needs
SIZES = {"sd1": 64, "sd2": 64, "sdxl": 128, "mvdream": 32, "imagedream": 32, "zero123": 32}  # of their latents
QUICK, EXACT = "quick_gelu", "gelu"  # OpenAI's CLIP, OpenCLIP
UNTOLD = "say `prediction: epsilon` (the one for 512 pixels) or `prediction: v_prediction` (768): both files look alike"


@dataclass(frozen=True)
class Tensors:
    """A file's tensors: their shapes on the meta device, and how to get them."""

    path: Path
    shapes: Mapping[str, Tensor]
    read: Callable[[list[str]], dict[str, Tensor]]

    def below(self, prefix: str) -> dict[str, Tensor]:
        return self.read([name for name in self.shapes if name.startswith(prefix)])


def opened(path: Path, allow_pickle: bool = False) -> Tensors:
    """A file of tensors, of which only the header is read; ModelError says in one line what is wrong with it."""
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file; give the path of a .safetensors file, or a model's folder")
    if path.suffix.lower() in PICKLES:
        if not allow_pickle:
            raise ModelError(
                f"{path}: is a pickle, which is refused unless you name it as one you trust (legacy: {path.name}); "
                "a .safetensors of the same model needs no trust"
            )
        return _pickled(path)
    shapes = header(path)

    def read(names: list[str]) -> dict[str, Tensor]:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}

    return Tensors(path, shapes, read)


def header(path: Path) -> dict[str, Tensor]:
    """Names and shapes of a safetensors file, as meta tensors; its length is checked, its data not read."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MOST_HEADER, size - 8):
                raise ValueError("its header has no end")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        ends = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {
            name: torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]], device="meta")
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ModelError(f"{path}: not a safetensors file ({str(error)[:80]}); get it again") from None
    if size != 8 + length + ends:
        raise ModelError(f"{path}: {size} bytes where its header tells of {8 + length + ends}: cut short; get it again")
    return shapes


def _pickled(path: Path) -> Tensors:
    """Plain tensors alone: anything else in the pickle is an error. Old files without an archive cannot be mapped."""
    said: object = None
    for mapped in (True, False):
        try:
            said = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            break
        except RuntimeError as error:
            if not mapped or "mmap" not in str(error):
                raise ModelError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from None
        except Exception as error:  # a pickle fails in as many ways as there are pickles
            raise ModelError(
                f"{path}: holds more than tensors ({type(error).__name__}: {' '.join(str(error).split())[:120]}); "
                "convert it to .safetensors where you trust it"
            ) from None
    inner = said.get("state_dict", said) if isinstance(said, dict) else None
    if not isinstance(inner, dict):
        raise ModelError(f"{path}: holds a {type(said).__name__} and not named tensors")
    state = {str(name): value for name, value in _flat(inner) if isinstance(value, Tensor)}
    shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    return Tensors(path, shapes, lambda names: {name: state[name] for name in names})


def _flat(groups: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Groups of tensors (IP-Adapter) under flat names."""
    found: list[tuple[str, object]] = []
    for name, value in groups.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


def recognise(shapes: Mapping[str, Tensor]) -> str:
    """Which kind of file names and shapes belong to: one of WHOLE, controlnet, lora, ip-adapter, part (of a folder of
    diffusers), or empty."""
    if any(".lora_" in name or "_lora." in name or ".lora." in name for name in shapes):
        return "lora"
    if any(name.startswith("ip_adapter.") for name in shapes):
        return "ip-adapter"
    if any(name.endswith(("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight")) for name in shapes):
        return "controlnet"
    if any(
        name.startswith(("down_blocks.", "encoder.down_blocks.", "text_model.", "transformer_blocks."))
        for name in shapes
    ):
        return "part"
    first = shapes.get(f"{ldm_names.UNET}input_blocks.0.0.weight")
    if first is None:
        return ""
    if first.shape[1] == 8 and "cc_projection.weight" in shapes:
        return "zero123"
    if first.shape[1] != 4:
        return ""
    if f"{ldm_names.UNET}camera_embed.0.weight" in shapes:
        return "imagedream" if any(name.startswith(f"{ldm_names.UNET}image_embed.") for name in shapes) else "mvdream"
    if f"{ldm_names.UNET}label_emb.0.0.weight" in shapes:
        return "sdxl" if any(name.startswith("conditioner.embedders.1.") for name in shapes) else ""
    ends = shapes.get(f"{ldm_names.UNET}input_blocks.1.1.proj_in.weight")
    return "" if ends is None else ("sd2" if ends.ndim == 2 else "sd1")


def hint(shapes: Mapping[str, Tensor]) -> str:
    """What a file that is no whole model may be, and what to do with it."""
    return {
        "lora": "a LoRA, which is given to a model as its `lora`",
        "ip-adapter": "an IP-Adapter, which is given to a model as its `ip_adapter`",
        "controlnet": "a ControlNet, which is given to a model as its `controlnet`",
        "part": "one network of a diffusers folder: give the folder that holds model_index.json",
        "": "no model known here: of single files SD 1.5, SD 2.x, SDXL, MVDream, ImageDream and Zero123 are read; "
        "inpainting models, refiners and transformers (SD 3, FLUX) are not",
    }[recognise(shapes)]


class SingleFile:
    """A whole model in one file, with the questions that a folder answers too (guidance/latent/loading.py)."""

    def __init__(
        self,
        path: Path,
        wanted: tuple[str, ...] = WHOLE,
        *,
        allow_pickle: bool = False,
        ema: bool = False,
        prediction: str = "",
    ) -> None:
        self.path, self.ema = path, ema
        self.file = opened(path, allow_pickle)
        self.kind = recognise(self.file.shapes)
        if self.kind not in WHOLE:
            raise ModelError(f"{path}: is {hint(self.file.shapes)}")
        if self.kind not in wanted:
            raise ModelError(f"{path}: is a {self.kind} model; this family takes {' or '.join(wanted)}")
        told = "v_prediction" if "v_pred" in self.file.shapes else "" if self.kind == "sd2" else "epsilon"
        self.prediction = prediction or told
        if not self.prediction:
            raise ModelError(f"{path}: is SD 2, and does not tell what it predicts; {UNTOLD}")

    def has(self, part: str) -> bool:
        return self._prefix(part) is not None

    def scheduler(self) -> dict[str, object]:
        """The noise it was trained with; all these kinds have the same."""
        return {
            "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
            "num_train_timesteps": 1000, "prediction_type": self.prediction, "clip_sample": False, "steps_offset": 1,
            "set_alpha_to_one": False,
        }  # fmt: skip

    def config(self, part: str) -> dict[str, object]:
        """A part's configuration, from shapes alone."""
        if part == "scheduler":
            return self.scheduler()
        try:
            return self._config(part, self._renamed(part, self.file.shapes))
        except (KeyError, StopIteration, IndexError, ValueError) as error:
            raise ModelError(
                f"{self.path}: its {part} lacks {error or 'all of its layers'}; get the file again"
            ) from None

    def state(self, part: str) -> dict[str, Tensor]:
        """A part's tensors under diffusers' names, of the file's dtype, as views of the mapped file."""
        return self._renamed(part, self.file.read(self._names(part)))

    def network(self, part: str, dtype: torch.dtype) -> nn.Module:
        """A part as a frozen network in `dtype`: unet, vae, text_encoder, text_encoder_2, image_encoder."""
        return filled(built(part, self.config(part)), self.state(part), dtype, f"{self.path} ({part})")

    def image_prompt(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """ImageDream's resampler and image attention."""
        return ldm_names.image_prompt(self._body(self.file.read(self._names("unet"))))

    def _prefix(self, part: str) -> str | None:
        """Where a part stands; two encoders of one prefix (ImageDream) are told apart by what is below it."""
        places = {
            "unet": (ldm_names.UNET,),
            "vae": ldm_names.VAES,
            "text_encoder": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
            "text_encoder_2": ("conditioner.embedders.1.model.",),
            "image_encoder": ("cond_stage_model.model.visual.", "clip_model.model.visual."),
            "cc_projection": ("cc_projection.",),
        }
        open_clip = ("cond_stage_model.model.", "clip_model.model.")
        if part == "text_encoder":
            found = next((p for p in open_clip if f"{p}transformer.resblocks.0.ln_1.weight" in self.file.shapes), None)
            if found:
                return found
        return next((p for p in places.get(part, ()) if any(n.startswith(p) for n in self.file.shapes)), None)

    def _names(self, part: str) -> list[str]:
        prefix = self._prefix(part)
        if prefix is None:
            raise ModelError(f"{self.path}: holds no {part}; a {self.kind} file should: take another one")
        prefixes = (prefix, ldm_names.EMA) if part == "unet" and self.ema else (prefix,)
        return [name for name in self.file.shapes if name.startswith(prefixes)]

    def _body(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return ldm_names.averaged(state) if self.ema else ldm_names.under(state, ldm_names.UNET)

    def _renamed(self, part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefix = self._prefix(part)
        if prefix is None:
            raise ModelError(f"{self.path}: holds no {part}; a {self.kind} file should: take another one")
        own = self._body(state) if part == "unet" else ldm_names.under(state, prefix)
        if part == "text_encoder" and prefix.endswith("transformer."):
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

    def _config(self, part: str, state: Mapping[str, Tensor]) -> dict[str, object]:
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
        prefix = self._prefix(part) or ""
        return inferred.text(state, QUICK if prefix.endswith("transformer.") else EXACT)
