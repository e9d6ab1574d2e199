# SPDX-License-Identifier: Apache-2.0
"""Zero123: the relative pose in both conventions, the token and the null, and what stands beside the noisy latent."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamlab.core.cameras import orbit
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.types import Condition, Prompt, Reference
from guidance.latent.pictures import MEAN, STD, clip_pixels
from guidance.zero123 import Zero123
from tests.guidance.latent import old_names
from tests.guidance.test_mvdream import frames, latents

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

VIEWS = orbit([30.0, -60.0, 170.0], [30.0, -5.0, 20.0], [3.0, 3.5, 3.2])


def reference(azimuth: float = 20.0, elevation: float = 20.0, distance: float = 3.2, size: int = 64) -> Reference:
    generator = torch.Generator().manual_seed(5)
    rgb, alpha = torch.rand(size, size, 3, generator=generator), torch.rand(size, size, 1, generator=generator)
    return Reference(rgb, (alpha > 0.4).float(), orbit([azimuth], elevation, distance))


def zero123(place: Path, **settings: object) -> Zero123:
    chosen = {"model": str(place), "dtype": "float32", "size": 64, **settings}
    return Zero123.build(Zero123.Settings(**chosen), None).to("cpu")


def asked(model: Zero123, given: Reference) -> dict[str, Condition]:
    return dict(model.condition(Prompt("unheard", image=given), VIEWS, frames(3)))


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("zero123")


@pytest.fixture(scope="module")
def model(folder: Path) -> Zero123:
    return zero123(folder)


def test_the_pose_of_zero123(model: Zero123) -> None:
    """Polar angles from above: a view 10 degrees higher than the picture is at a polar angle 10 degrees less."""
    given = orbit([20.0], 20.0, 3.2)
    assert not model.stable
    found = model.pose(VIEWS, given)
    wanted = [
        [(90 - e) - (90 - 20), math.sin(math.radians(a - 20)), math.cos(math.radians(a - 20)), d - 3.2]
        for a, e, d in ((30, 30, 3.0), (-60, -5, 3.5), (170, 20, 3.2))
    ]
    expected = torch.tensor([[math.radians(row[0]), *row[1:]] for row in wanted])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert found[0, 0] == pytest.approx(math.radians(-10), abs=1e-6)
    assert found[2].tolist() == pytest.approx(
        [0.0, math.sin(math.radians(150)), math.cos(math.radians(150)), 0.0], abs=1e-6
    )


def test_the_pose_of_stable_zero123(folder: Path, tmp_path: Path) -> None:
    """Its fourth number is the picture's own polar angle; the rest is the same."""
    given = orbit([20.0], 20.0, 3.2)
    stable, plain = zero123(folder, variant="stable"), zero123(folder, variant="zero123")
    assert stable.stable and not plain.stable
    torch.testing.assert_close(stable.pose(VIEWS, given)[:, :3], plain.pose(VIEWS, given)[:, :3], rtol=0, atol=0)
    assert stable.pose(VIEWS, given)[:, 3].tolist() == pytest.approx([math.radians(70)] * 3)
    named = tmp_path / "stable-zero123-diffusers"
    shutil.copytree(folder, named)
    assert zero123(named).stable and not zero123(named, variant="zero123").stable


def test_token_and_picture_by_the_parts_themselves(folder: Path, model: Zero123) -> None:
    """The libraries' own classes, read straight; the null is zeros in both places, behind the projection."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers import CLIPVisionModelWithProjection

    given = reference()
    said, z, t = asked(model, given), latents(3), torch.tensor([700, 200, 20])
    white = (given.rgb * given.alpha + 1 - given.alpha).permute(2, 0, 1)[None]
    mode = AutoencoderKL.from_pretrained(folder / "vae").encode(2 * white - 1).latent_dist.mode()
    torch.testing.assert_close(said["text"].rows["beside"], mode.expand(3, -1, -1, -1), rtol=1e-4, atol=1e-5)
    tower = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval()
    size = (tower.config.image_size,) * 2
    small = torch.nn.functional.interpolate(2 * white - 1, size, mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    embedding = tower(((small + 1) / 2 - mean) / std).image_embeds
    (weights,) = (folder / "clip_camera_projection").glob("*.safetensors")
    state = load_file(weights)
    joint = torch.cat([embedding.expand(3, -1), model.pose(VIEWS, given.camera)], -1)
    token = (joint @ state["proj.weight"].T + state["proj.bias"])[:, None]
    torch.testing.assert_close(said["text"].rows["token"], token, rtol=1e-4, atol=1e-4)
    null = said["null"].rows
    assert not null["token"].any() and not null["beside"].any() and null["token"].shape == token.shape
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    for name, rows in (
        ("text", (mode.expand(3, -1, -1, -1), token)),
        ("null", (0 * mode.expand(3, -1, -1, -1), 0 * token)),
    ):
        expected = unet(torch.cat([z, rows[0]], 1), t, rows[1])[0]
        torch.testing.assert_close(model.predict(z, t, said[name]), expected, rtol=1e-3, atol=1e-4)
    latent = model.encode(white.permute(0, 2, 3, 1))
    torch.testing.assert_close(latent, 0.18215 * mode, rtol=1e-4, atol=1e-5)  # the noisy one is scaled, that is not


def test_pictures_are_shrunk_corner_to_corner_without_averaging() -> None:
    """As it was trained: corners stay, a ramp stays one, nothing is cropped, and a fine grid is aliased."""
    ramp = torch.linspace(0, 1, 65).expand(65, 65)[None, ..., None].expand(-1, -1, -1, 3)
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
    seen = clip_pixels(ramp, 33, sharp=True)[0] * std + mean
    torch.testing.assert_close(seen, torch.linspace(0, 1, 33).expand(3, 33, 33), atol=1e-5, rtol=0)
    grid = (torch.arange(65) % 2).float().expand(65, 65)[None, ..., None].expand(-1, -1, -1, 3)
    assert (clip_pixels(grid, 33, sharp=True)[0] * std + mean).abs().max() < 1e-5  # every second column
    assert (clip_pixels(grid, 33)[0] * std + mean - 0.5).abs()[:, :, 2:-2].max() < 0.1  # averaged, as the others


def test_both_styles_of_folders_and_the_picture_is_looked_at_once(random_folder: Callable[..., Path]) -> None:
    given = reference()
    mine = zero123(random_folder("zero123-hf"))
    assert mine.projection.weight.shape == (32, 36)
    said = asked(mine, given)
    again = asked(mine, given)
    assert torch.equal(said["text"].rows["token"], again["text"].rows["token"])
    assert mine.seen_pictures.times_looked == 1
    assert set(said) == {"text", "null"} and not mine.source.has("text_encoder")


@pytest.mark.parametrize("averages", [False, True])
def test_the_original_checkpoint_and_its_averages(averages: bool, tmp_path: Path) -> None:
    """Wrapped in `state_dict`; where it has moving averages, the model was meant to be used by them."""
    state, nets = old_names.whole("zero123")
    held = dict(state)
    if averages:
        for name, value in state.items():
            if name.startswith("model.diffusion_model."):
                held["model_ema." + name.removeprefix("model.").replace(".", "")] = value
                held[name] = value + 1
    path = tmp_path / "105000.ckpt"
    torch.save({"state_dict": held, "global_step": 105000}, path)
    mine = zero123(path, legacy=path.name)
    z, t, given = latents(3), torch.tensor([700, 200, 20]), reference()
    said = asked(mine, given)
    rows = said["text"].rows
    expected = nets["unet"](torch.cat([z, rows["beside"]], 1), t, rows["token"])[0]
    torch.testing.assert_close(mine.predict(z, t, said["text"]), expected, rtol=1e-3, atol=1e-4)
    assert _close(mine.projection, nets["cc_projection"])


def _close(one: nn.Module, other: nn.Module) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = list(zip(one.parameters(), other.parameters(), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


def test_without_a_picture_or_of_another_family_is_one_line(
    model: Zero123, random_folder: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the prompt has no picture; give one with --image"):
        model.condition(Prompt("a red mushroom"), VIEWS, frames(3))
    other = Path(shutil.copytree(random_folder("sd15"), tmp_path / "sd"))
    (other / "model_index.json").write_text((folder / "model_index.json").read_text())
    with pytest.raises(ModelError, match="its U-Net takes 4 channels, not Zero123's 8"):
        zero123(other)
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    shutil.rmtree(bare / "clip_camera_projection")
    with pytest.raises(ModelError, match="neither clip_camera_projection nor cc_projection"):
        zero123(bare)
