# SPDX-License-Identifier: Apache-2.0
"""What networks of others see in a picture: where its object is, how far, which way its surface looks.

    disparity  Depth Anything (Yang et al. 2024, arXiv:2406.09414) and DPT (Ranftl et al. 2021, arXiv:2103.13413): large
               is near, scale and shift are free
    cover      Segment Anything (Kirillov et al. 2023, arXiv:2304.02643), asked for what the middle shows and the
               corners do not; of its three answers the one it trusts most
    normals    Marigold (Ke et al. 2024, arXiv:2312.02145): a diffusion model of normals, one sample of a fixed seed;
               x right, y up, z towards the viewer

Pictures are [H, W, 3], sRGB in [0, 1]; a map has their size. Everything runs on the CPU, once, before a run begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from dreamlab.core.errors import ModelError
from dreamlab.hub import located
from guidance.latent.loading import ModelFolder, first_line, library, quiet

DISPARITY = ("DepthAnythingForDepthEstimation", "DPTForDepthEstimation")
COVER = ("SamModel",)
NORMALS_STEPS = 4  # of its own card; ten change little
INSET = 0.02  # of the corners


def disparity(rgb: Tensor, model: str) -> Tensor:
    """[H, W]."""
    net, prepare = _opened(model, "depth", DISPARITY, "DPTImageProcessorPil")
    given = prepare(_bytes(rgb), return_tensors="pt")
    with torch.no_grad():
        found: Tensor = net(given["pixel_values"]).predicted_depth  # [1, h, w]
    return interpolate(found[None], rgb.shape[:2], mode="bilinear", align_corners=False)[0, 0]


def cover(rgb: Tensor, model: str) -> Tensor:
    """[H, W] in [0, 1]."""
    net, prepare = _opened(model, "cutout", COVER, "SamImageProcessorPil")
    given = prepare(_bytes(rgb), return_tensors="pt")
    high, wide = (int(side) for side in given["reshaped_input_sizes"][0])
    places = torch.tensor(
        [(0.5, 0.5), *((x, y) for x in (INSET, 1 - INSET) for y in (INSET, 1 - INSET))], dtype=torch.float32
    )
    labels = torch.tensor([1, 0, 0, 0, 0])
    with torch.no_grad():
        said = net(
            pixel_values=given["pixel_values"],
            input_points=(places * torch.tensor([wide, high]))[None, None],
            input_labels=labels[None, None],
            multimask_output=True,
        )
    sizes = [[list(rgb.shape[:2])], [[high, wide]]]
    (masks,) = prepare.post_process_masks([said.pred_masks[0]], *sizes, binarize=False)  # [1, 3, H, W] of logits
    return cast(Tensor, masks[0, int(said.iou_scores[0, 0].argmax())].sigmoid())


def normals(rgb: Tensor, model: str) -> Tensor:
    """[H, W, 3], of unit length, in the axes of the camera."""
    place = located(model, "normals")
    folder = ModelFolder(place)
    with quiet():
        diffusers = library("diffusers")
        scheduler = getattr(diffusers, _of(folder.config("scheduler").get("_class_name"), SCHEDULERS, place))
        pipeline = diffusers.MarigoldNormalsPipeline(
            unet=folder.network("unet", ("UNet2DConditionModel",), torch.float32),
            vae=folder.network("vae", ("AutoencoderKL",), torch.float32),
            scheduler=scheduler.from_pretrained(str(place / "scheduler"), local_files_only=True),
            text_encoder=folder.encoder("text_encoder", "CLIPTextModel", torch.float32),
            tokenizer=folder.tokenizer("tokenizer", "CLIPTokenizer"),
            prediction_type="normals",
            use_full_z_range=folder.index().get("use_full_z_range", True),
            default_denoising_steps=NORMALS_STEPS,
            default_processing_resolution=folder.index().get("default_processing_resolution", 768),
        )
        pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad():
            made = pipeline(
                rgb.permute(2, 0, 1)[None], output_type="pt", generator=torch.Generator().manual_seed(0)
            ).prediction  # [1, 3, H, W]
    return normalize(made[0].permute(1, 2, 0).float(), dim=-1)


SCHEDULERS = ("DDIMScheduler", "LCMScheduler")


def _opened(model: str, family: str, kinds: Sequence[str], preparing: str) -> tuple[Any, Any]:
    """The network of a folder, and what makes its input of a picture."""
    place = located(model, family)
    if not place.is_dir():
        raise ModelError(f"{place}: is no folder; an estimator is one, with config.json and preprocessor_config.json")
    folder = ModelFolder(place.parent)
    said = folder.config(place.name).get("architectures")
    kind = _of(said[0] if isinstance(said, list) and said else said, kinds, place)
    with quiet():
        try:
            prepare = getattr(library("transformers"), preparing).from_pretrained(str(place), local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{place}: its preprocessor_config.json is not readable ({first_line(error)})") from None
        return folder.encoder(place.name, kind, torch.float32), prepare


def _of(said: object, kinds: Sequence[str], place: object) -> str:
    if said not in kinds:
        raise ModelError(f"{place}: is a {said}; {' or '.join(kinds)} is asked for")
    return cast(str, said)


def _bytes(rgb: Tensor) -> np.ndarray:
    return (rgb.clamp(0, 1) * 255).round().byte().numpy()
