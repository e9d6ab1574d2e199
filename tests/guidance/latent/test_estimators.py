# SPDX-License-Identifier: Apache-2.0
"""Estimators on tiny random networks: what they are given, and what is made of their answers, against the libraries'
own processors and pipelines used straight."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from dreamlab.core.errors import InputError, ModelError
from dreamlab.recipe import load
from dreamlab.recipe.given import own_files
from dreamlab.recipe.picture import PictureSettings, read_picture
from dreamlab.recipe.tables import TABLES
from guidance.latent import estimators
from guidance.latent.estimators import NORMALS_STEPS, cover, disparity, normals

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
    "reshape_hidden_states": False,
    "apply_layernorm": True,
}


def picture(high: int = 30, wide: int = 44) -> Tensor:
    """Bytes of a picture that is not square."""
    return torch.randint(0, 256, (high, wide, 3), generator=torch.Generator().manual_seed(3)) / 255


def prepared(folder: Path, kind: str, **more: object) -> Path:
    """preprocessor_config.json as published ones are: the class under its old name."""
    config = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3}
    config |= {"image_mean": list(MEAN), "image_std": list(STD), "image_processor_type": kind} | more
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def shaken(net: torch.nn.Module, by: float) -> torch.nn.Module:
    """Weights as drawn are so small that a picture leaves no trace."""
    with torch.no_grad():
        for value in net.parameters():
            value.add_(torch.randn_like(value) * by)
    return net


@pytest.fixture(scope="module")
def depth_anything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(0)
    config = DepthAnythingConfig(
        backbone_config=Dinov2Config(**DINO),
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        backbone=None,
    )
    folder = tmp_path_factory.mktemp("depth")
    net = DepthAnythingForDepthEstimation(config)
    shaken(net, 0.2)
    with torch.no_grad():  # the last layer's ReLU would otherwise hide half of it
        net.head.conv3.bias.fill_(3.0)
    net.save_pretrained(folder)
    more = {"size": {"height": 28, "width": 28}, "ensure_multiple_of": 14, "keep_aspect_ratio": True}
    return prepared(folder, "DPTImageProcessor", **more)


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SamConfig, SamModel

    torch.manual_seed(7)
    vision = {"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {
        "num_pos_feats": 8,
        "image_size": 64,
        "patch_size": 8,
        "window_size": 2,
        "global_attn_indexes": [1],
        "mlp_dim": 32,
    }
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            **{"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
            "iou_head_hidden_dim": 16,
        },
    )
    folder = tmp_path_factory.mktemp("sam")
    shaken(SamModel(config), 0.1).save_pretrained(folder)
    more = {"size": {"longest_edge": 64}, "do_pad": True, "pad_size": {"height": 64, "width": 64}, "resample": 2}
    return prepared(folder, "SamImageProcessor", **more)


def test_disparity_is_the_network_s_on_its_own_size(depth_anything: Path) -> None:
    """30 x 44 pixels: the nearer side to 28, both multiples of 14; bicubic, then mean and deviation of ImageNet."""
    from PIL import Image
    from transformers import DepthAnythingForDepthEstimation

    rgb = picture()
    small = Image.fromarray((rgb * 255).round().byte().numpy()).resize((42, 28), Image.Resampling.BICUBIC)
    given = (torch.from_numpy(np.array(small)) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    net = DepthAnythingForDepthEstimation.from_pretrained(depth_anything).eval()
    with torch.no_grad():
        there = net(given.permute(2, 0, 1)[None].float()).predicted_depth
    assert there.shape == (1, 28, 42) and float(there.std()) > 1e-4
    expected = interpolate(there[None], (30, 44), mode="bilinear")[0, 0]
    torch.testing.assert_close(disparity(rgb, str(depth_anything)), expected, rtol=1e-5, atol=1e-6)


def test_dpt_is_read_too(tmp_path: Path) -> None:
    from transformers import DPTConfig, DPTForDepthEstimation

    torch.manual_seed(2)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, is_hybrid=False,
        readout_type="project", add_projection=False,
    )  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(tmp_path)
    prepared(tmp_path, "DPTImageProcessor", size={"height": 32, "width": 32})
    found = disparity(picture(), str(tmp_path))
    assert found.shape == (30, 44) and bool(torch.isfinite(found).all())


def test_cover_is_asked_for_the_middle_and_against_the_corners(sam: Path) -> None:
    """The library's own processor scales points and masks; the answer is the one of the highest score."""
    from transformers import SamImageProcessorPil, SamModel, SamProcessor

    rgb = picture()
    processor = SamProcessor(SamImageProcessorPil.from_pretrained(sam))
    points = [(22.0, 15.0), (0.88, 0.6), (0.88, 29.4), (43.12, 0.6), (43.12, 29.4)]
    given = processor(
        (rgb * 255).round().byte().numpy(),
        input_points=[[[list(point) for point in points]]],
        input_labels=[[[1, 0, 0, 0, 0]]],
        return_tensors="pt",
    )
    sizes = given.pop("original_sizes"), given.pop("reshaped_input_sizes")
    given["input_points"] = given["input_points"].float()
    with torch.no_grad():
        said = SamModel.from_pretrained(sam).eval()(**given)
    (masks,) = processor.post_process_masks([said.pred_masks[0]], *sizes, binarize=False)
    scores = said.iou_scores[0, 0]
    assert float(scores.std()) > 1e-4 and int(scores.argmax()) != 0
    expected = torch.sigmoid(masks[0, int(scores.argmax())])
    torch.testing.assert_close(cover(rgb, str(sam)), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def marigold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder whose network also sees the picture's latents, under Marigold's index."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from guidance.layouts.random import write_random

    folder = tmp_path_factory.mktemp("made") / "marigold"
    write_random("sd21", "tiny", folder)
    config = json.loads((folder / "unet/config.json").read_text())
    torch.manual_seed(4)
    UNet2DConditionModel.from_config(config | {"in_channels": 8}).save_pretrained(folder / "unet")
    DDIMScheduler(prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing").save_pretrained(
        folder / "scheduler"
    )
    index = json.loads((folder / "model_index.json").read_text())
    index = {name: index[name] for name in ("unet", "vae", "scheduler", "text_encoder", "tokenizer")}
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    index |= {"_class_name": "MarigoldNormalsPipeline", "prediction_type": "normals", "use_full_z_range": True}
    index |= {"default_denoising_steps": NORMALS_STEPS, "default_processing_resolution": 64}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_normals_are_the_pipeline_s(marigold: Path) -> None:
    from diffusers import MarigoldNormalsPipeline

    rgb = picture(32, 48)
    pipeline = MarigoldNormalsPipeline.from_pretrained(marigold, local_files_only=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        rgb.numpy(), num_inference_steps=NORMALS_STEPS, processing_resolution=64, generator=torch.manual_seed(0)
    ).prediction[0]
    found = normals(rgb, str(marigold))
    assert found.shape == (32, 48, 3) and found.norm(dim=-1).sub(1).abs().max() < 1e-5
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


def test_what_is_no_estimator_is_one_line(depth_anything: Path, sam: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for model, said in {
        str(sam): "is a SamModel (cutout), not DepthAnythingForDepthEstimation or DPTForDepthEstimation",
        "sam-vit-base": "is for guidance cutout; for depth: depth-anything-v2-small, dpt-large",
        "depth-anything-v2-smal": "did you mean 'depth-anything-v2-small'?",
        str(tmp_path / "absent"): "no such folder or file",
    }.items():
        with pytest.raises(ModelError) as caught:
            disparity(picture(), model)
        assert said in str(caught.value) and "\n" not in str(caught.value)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in depth_anything.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    tensors = load_file(copy / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if k != "head.conv3.bias"}, copy / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"1 tensor missing \(head.conv3.bias\)"):
        disparity(picture(), str(copy))
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    (copy / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"its preprocessor_config.json is not readable"):
        disparity(picture(), str(copy))


# ---- what a recipe makes of them ------------------------------------------------------------------------------------

RECIPE = """
prompt: an object
image: {{file: photo.png, fill: 0, cutout: {sam}, depth: {depth}}}
stages:
  - name: shape
    scene: field
    terms: [{{guidance: picture, views: given, system: {{kind: photometric, depth: 1}}}}]
    given: {{share: 1}}
"""


def photo(folder: Path, rgb: Tensor) -> Path:
    from PIL import Image

    Image.fromarray((rgb * 255).round().byte().numpy()).save(folder / "photo.png")
    return folder / "photo.png"


def place(high: int, wide: int) -> tuple[Tensor, Tensor]:
    return torch.meshgrid(torch.arange(high) + 0.5, torch.arange(wide) + 0.5, indexing="ij")


def test_the_run_s_own_copies_are_what_the_networks_saw(sam: Path, depth_anything: Path, tmp_path: Path) -> None:
    """Cut out by one, measured by the other, on the whole picture; the run needs neither again."""
    rgb = picture(64, 64)
    photo(tmp_path, rgb)
    made, files = own_files(load(RECIPE.format(sam=sam, depth=depth_anything), TABLES), tmp_path)
    assert set(files) == {"image.png", "image_depth.png"}
    assert (made.image.cutout, made.image.depth, made.image.depth_light) == ("plain", "image_depth.png", "far")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    alpha, near = cover(rgb, str(sam)), disparity(rgb, str(depth_anything))
    there = alpha > 0.5
    assert 0.01 < float(there.float().mean()) < 0.99
    far = (near[there].max() - near) / (near[there].max() - near[there].min())
    found = read_picture(tmp_path / "photo.png", PictureSettings(fill=0.0, cutout=str(sam), depth=str(depth_anything)))
    assert found.depth is not None
    torch.testing.assert_close(found.alpha[..., 0], alpha)
    torch.testing.assert_close(found.depth[..., 0][there], far[there], rtol=1e-4, atol=1e-4)


def test_disparity_becomes_an_order_of_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slope seen by an exact estimator of 1 / distance, up to its free scale and shift; the ground does not count."""
    y, x = place(64, 64)
    disc = ((x - 32) ** 2 + (y - 32) ** 2 < 20**2).float()
    distance = 2 + x / 64
    monkeypatch.setattr(estimators, "disparity", lambda rgb, model: 7 * torch.where(disc > 0, 1 / distance, 9.0) - 3)
    path = photo(tmp_path, torch.where(disc[..., None] > 0, torch.tensor([0.8, 0.2, 0.1]), torch.ones(3)))
    found = read_picture(path, PictureSettings(fill=0.0, depth="depth-anything-v2-small")).depth
    assert found is not None
    inside, seen = disc > 0, found[..., 0]
    assert float(seen[inside].min()) == 0 and float(seen[inside].max()) == 1
    assert torch.equal(seen[inside].argsort(stable=True), distance[inside].argsort(stable=True))
    near, far = 1 / distance[inside].min(), 1 / distance[inside].max()
    torch.testing.assert_close(seen[inside], (near - 1 / distance[inside]) / (near - far), rtol=1e-4, atol=1e-4)


def test_normals_arrive_in_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a wall that faces the camera, which looks down from 20 degrees above the horizon."""
    towards = torch.tensor([0.0, 0.0, 1.0])
    monkeypatch.setattr(estimators, "normals", lambda rgb, model: towards.expand(*rgb.shape))
    y, x = place(64, 64)
    disc = ((x - 32) ** 2 + (y - 32) ** 2 < 20**2).float()[..., None]
    path = photo(tmp_path, (1 - 0.5 * disc).expand(-1, -1, 3))
    found = read_picture(path, PictureSettings(fill=0.0, normal="marigold-normals", elevation_deg=20.0)).normal
    assert found is not None
    up = float(np.sin(np.radians(20))), float(np.cos(np.radians(20)))
    torch.testing.assert_close(found[32, 32], torch.tensor([0.0, up[0], up[1]]), rtol=1e-4, atol=1e-4)


def test_a_ground_that_is_not_plain_is_cut_away_by_who_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = picture(64, 64)
    y, x = place(64, 64)
    disc = ((x - 32) ** 2 + (y - 32) ** 2 < 20**2).float()
    path = photo(tmp_path, rgb)
    with pytest.raises(InputError, match=r"its background is not plain .* or name a model in image.cutout"):
        read_picture(path, PictureSettings())
    monkeypatch.setattr(estimators, "cover", lambda seen, model: disc)
    found = read_picture(path, PictureSettings(fill=0.0, cutout="sam-vit-base"))
    assert torch.equal(found.alpha[..., 0], disc)
    torch.testing.assert_close(found.rgb[disc > 0], rgb[disc > 0])
    for answer, said in ((torch.ones(64, 64), "finds no background in it"), (torch.zeros(64, 64), "no object found")):
        monkeypatch.setattr(estimators, "cover", lambda seen, model, answer=answer: answer)
        with pytest.raises(InputError, match=said):
            read_picture(path, PictureSettings(cutout="sam-vit-base"))


def test_a_model_that_is_absent_is_said_before_a_folder_is_made(tmp_path: Path) -> None:
    from tests.conftest import Commands

    y, x = place(64, 64)
    disc = ((x - 32) ** 2 + (y - 32) ** 2 < 20**2).float()[..., None]
    photo(tmp_path, (1 - 0.5 * disc).expand(-1, -1, 3))
    (tmp_path / "r.yaml").write_text(RECIPE.format(sam="plain", depth="dpt-large"))
    ended = Commands(tmp_path)(
        "dream", "--recipe", "r.yaml", "--out", "runs", DREAMLAB_MODELS=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)
    )
    assert ended.code == 4 and ended.err.endswith("dreamlab models prefetch dpt-large, or a path\n"), ended.err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
