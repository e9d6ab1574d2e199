# SPDX-License-Identifier: Apache-2.0
"""The library's pipelines run on the tiny folders, and their denoisers are called with the shapes of the real ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct

pytest.importorskip("diffusers")

# said, because diffusers takes folders of before 0.9 for mistaken about a sample_size below 64
SMALL = {"height": 64, "width": 64, "num_inference_steps": 2}


def pipeline(folder: Path, **changes: Any) -> Any:
    """The pipeline that model_index.json names, read as a user would."""
    import json

    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    made = getattr(importlib.import_module("diffusers"), kind).from_pretrained(
        folder, local_files_only=True, use_safetensors=True, **changes
    )
    made.set_progress_bar_config(disable=True)
    return made


@contextmanager
def spied(net: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """The arguments of every call of a network, by name."""
    import inspect

    calls: list[dict[str, Any]] = []
    inner = net.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(inspect.signature(inner).bind(*args, **kwargs).arguments)
        return inner(*args, **kwargs)

    net.forward = forward  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        net.forward = inner  # type: ignore[method-assign]


def shapes(call: dict[str, Any], *names: str) -> list[tuple[int, ...]]:
    return [tuple(call[name].shape) for name in names]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", ["sd15", "sd21", "sd21v"])
def test_stable_diffusion_runs_from_its_folder(name: str, random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder(name), safety_checker=None, torch_dtype=torch.float32)
    with spied(pipe.unet) as calls:
        made = pipe("a red mushroom", **SMALL, output_type="pt", generator=torch.manual_seed(0)).images
    assert made.shape == (1, 3, 64, 64)
    assert torch.isfinite(made).all()
    assert shapes(calls[0], "sample", "encoder_hidden_states") == [(2, 4, 8, 8), (2, 77, 32)]
    assert pipe.scheduler.config.prediction_type == ("v_prediction" if name == "sd21v" else "epsilon")


def test_sdxl_runs_from_its_folder(random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder("sdxl"))
    with spied(pipe.unet) as calls:
        pipe("a red mushroom", **SMALL, output_type="latent")
    added = calls[0]["added_cond_kwargs"]
    assert shapes(calls[0], "sample", "encoder_hidden_states") == [(2, 4, 8, 8), (2, 77, 64)]
    assert shapes(added, "text_embeds", "time_ids") == [(2, 32), (2, 6)]
    assert not calls[0]["encoder_hidden_states"][0].any(), "force_zeros_for_empty_prompt was not read"


def test_the_full_stable_diffusion_pipeline_loads_as_published(random_folder: Callable[..., Path]) -> None:
    """Safety checker and the feature extractor of a vanished class included."""
    pipe = pipeline(random_folder("sd15"))
    assert type(pipe.safety_checker).__name__ == "StableDiffusionSafetyChecker"
    assert type(pipe.feature_extractor).__name__.startswith("CLIPImageProcessor")


def test_deepfloyd_runs_from_its_folder(random_folder: Callable[..., Path]) -> None:
    """transformers 5 reads a sentencepiece model with a package that is none of ours: the tokenizer is handed in."""
    tokenizer = spoken_t5(random_folder, 77)
    pipe = pipeline(random_folder("if1m"), safety_checker=None, watermarker=None, tokenizer=tokenizer)
    with spied(pipe.unet) as calls:
        made = pipe("a red mushroom", height=16, width=16, num_inference_steps=2, output_type="pt").images
    assert made.shape == (1, 3, 16, 16) and torch.isfinite(made).all()
    assert shapes(calls[0], "sample", "encoder_hidden_states") == [(2, 3, 16, 16), (2, 77, 32)]


@pytest.mark.parametrize("name", ["sd3", "sd35m", "sd35l"])
def test_sd3_runs_from_its_folder(name: str, random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder(name))
    with spied(pipe.transformer) as calls:
        pipe("a red mushroom", **SMALL, output_type="latent")
    assert shapes(calls[0], "hidden_states", "encoder_hidden_states") == [(2, 16, 8, 8), (2, 77 + 256, 72)]
    assert shapes(calls[0], "pooled_projections") == [(2, 64)]
    assert calls[0]["timestep"].tolist() == [1000.0, 1000.0]
    context = calls[0]["encoder_hidden_states"]
    assert not context[:, :77, 64:].any() and context[:, :77, :64].all(), "the two CLIPs are filled up with zeros"


@pytest.mark.parametrize("name", ["flux1-dev", "flux1-schnell"])
def test_flux_runs_from_its_folder(name: str, random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder(name))
    with spied(pipe.transformer) as calls:
        pipe("a red mushroom", **SMALL, output_type="latent", max_sequence_length=16)
    assert shapes(calls[0], "hidden_states", "encoder_hidden_states") == [(1, 16, 64), (1, 16, 32)]
    assert shapes(calls[0], "pooled_projections", "txt_ids", "img_ids") == [(1, 32), (16, 3), (16, 3)]
    assert calls[0]["timestep"].tolist() == [1.0]
    guided = calls[0]["guidance"]
    assert (guided is None) if name == "flux1-schnell" else guided.tolist() == [3.5]
    assert pipe.scheduler.config.use_dynamic_shifting is (name == "flux1-dev")


def test_klein_runs_from_its_folder(random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder("flux2-klein-4b"))
    with spied(pipe.transformer) as calls:
        pipe(prompt="a red mushroom", **SMALL, output_type="latent", guidance_scale=1.0, max_sequence_length=64)
    assert shapes(calls[0], "hidden_states", "encoder_hidden_states") == [(1, 16, 128), (1, 64, 48)]
    assert shapes(calls[0], "img_ids", "txt_ids") == [(1, 16, 4), (1, 64, 4)]
    asked = pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": "red"}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert asked == "<|im_start|>user\nred<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_z_image_runs_from_its_folder(random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder("zimage"))
    with spied(pipe.transformer) as calls:
        pipe("a red mushroom", **SMALL, output_type="latent", guidance_scale=3.0)
    assert [tuple(row.shape) for row in calls[0]["x"]] == [(16, 1, 8, 8)] * 2
    assert all(row.shape[1] == 16 for row in calls[0]["cap_feats"])
    assert calls[0]["t"].tolist() == [0.0, 0.0], "time runs from 0 to 1"


def spoken_t5(random_folder: Callable[..., Path], length: int) -> Any:
    """A tokenizer for folders that hold a sentencepiece model alone (see above)."""
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(random_folder("sd3") / "tokenizer_3", model_max_length=length)


@pytest.mark.parametrize("name", ["modelscope", "zeroscope"])
def test_modelscope_runs_from_its_folder(name: str, random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder(name), torch_dtype=torch.float32)
    with spied(pipe.unet) as calls:
        pipe("a red mushroom", **SMALL, num_frames=3, output_type="latent")
    assert shapes(calls[0], "sample", "encoder_hidden_states") == [(2, 4, 3, 8, 8), (2, 77, 32)]


@pytest.mark.parametrize("name", ["svd", "svd-xt"])
def test_stable_video_runs_from_its_folder(name: str, random_folder: Callable[..., Path]) -> None:
    from PIL import Image

    pipe = pipeline(random_folder(name))
    with spied(pipe.unet) as calls:
        pipe(Image.new("RGB", (64, 64), "red"), **SMALL, num_frames=3, output_type="latent")
    assert shapes(calls[0], "sample", "encoder_hidden_states") == [(2, 3, 8, 8, 8), (2, 1, 32)]
    assert shapes(calls[0], "added_time_ids") == [(2, 3)]
    assert float(calls[0]["timestep"]) == pytest.approx(1.6378, abs=1e-4), "a quarter of ln 700"


@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox-5b"])
def test_cogvideo_runs_from_its_folder(name: str, random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder(name), tokenizer=spoken_t5(random_folder, 226))
    with spied(pipe.transformer) as calls:
        pipe("a red mushroom", **SMALL, num_frames=9, output_type="latent")
    assert shapes(calls[0], "hidden_states", "encoder_hidden_states") == [(2, 3, 16, 8, 8), (2, 226, 32)]
    assert calls[0]["timestep"].tolist() == [999, 999]
    assert (calls[0].get("image_rotary_emb") is not None) is (name == "cogvideox-5b")
    assert pipe.scheduler.alphas_cumprod[999] == 0.0, "zero terminal signal"


def wan_transformers(name: str, folder: Path) -> dict[str, nn.Module]:
    """Read without `from_pretrained`, which wants accelerate for them."""
    made = {}
    for network in LAYOUTS[name].parts:
        if network.folder.startswith("transformer"):
            made[network.folder] = construct(network, "tiny", "cpu")
            state: dict[str, Tensor] = {}
            for path in sorted((folder / network.folder).glob("*.safetensors")):
                state |= load_file(path)
            made[network.folder].load_state_dict(state)
    return made


@pytest.mark.parametrize("name", ["wan21-1.3b", "wan22-t2v-a14b", "wan22-5b"])
def test_wan_runs_from_its_folder(name: str, random_folder: Callable[..., Path]) -> None:
    pipe = pipeline(random_folder(name), **wan_transformers(name, random_folder(name)))
    side = 4 if name == "wan22-5b" else 8
    with spied(pipe.transformer) as calls:
        pipe("a red mushroom", **SMALL, num_frames=5, output_type="latent", max_sequence_length=16)
    channels = 48 if name == "wan22-5b" else 16
    assert shapes(calls[0], "hidden_states", "encoder_hidden_states") == [(1, channels, 2, side, side), (1, 16, 32)]
    assert (pipe.transformer_2 is not None) is (name == "wan22-t2v-a14b")
    assert pipe.config.expand_timesteps is (name == "wan22-5b")


def test_animatediff_runs_from_two_folders(random_folder: Callable[..., Path]) -> None:
    from diffusers import DDIMScheduler, MotionAdapter

    adapter = MotionAdapter.from_pretrained(random_folder("motion-v2"), local_files_only=True)
    import diffusers

    made = diffusers.AnimateDiffPipeline.from_pretrained(
        random_folder("sd15"), motion_adapter=adapter, feature_extractor=None, local_files_only=True
    )
    made.scheduler = DDIMScheduler.from_config(made.scheduler.config, beta_schedule="linear", clip_sample=False)
    made.set_progress_bar_config(disable=True)
    with spied(made.unet) as calls:
        made("a red mushroom", **SMALL, num_frames=3, output_type="latent")
    assert shapes(calls[0], "sample", "encoder_hidden_states") == [(2, 4, 3, 8, 8), (6, 77, 32)]
    assert float(made.scheduler.alphas_cumprod[500]) == pytest.approx(0.16077162, abs=1e-7)


@pytest.mark.parametrize(("name", "control"), [("sd15", "controlnet-sd15"), ("sdxl", "controlnet-sdxl")])
def test_control_networks_run_beside_their_model(name: str, control: str, random_folder: Callable[..., Path]) -> None:
    """Their zero convolutions are filled: taken away, the picture is another."""
    import diffusers

    net = diffusers.ControlNetModel.from_pretrained(random_folder(control), local_files_only=True)
    kind = "StableDiffusionControlNetPipeline" if name == "sd15" else "StableDiffusionXLControlNetPipeline"
    more = {"safety_checker": None} if name == "sd15" else {}
    pipe = getattr(diffusers, kind).from_pretrained(
        random_folder(name), controlnet=net, local_files_only=True, torch_dtype=torch.float32, **more
    )
    pipe.set_progress_bar_config(disable=True)
    shown = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    found = []
    for scale in (1.0, 0.0):
        with spied(pipe.controlnet) as calls:
            out = pipe(
                "a red mushroom", image=shown, **SMALL, output_type="latent", controlnet_conditioning_scale=scale,
                generator=torch.manual_seed(1),
            )  # fmt: skip
        found.append(out.images)
        assert shapes(calls[0], "controlnet_cond") == [(2, 3, 64, 64)]
    assert (found[0] - found[1]).abs().max() > 1e-3
