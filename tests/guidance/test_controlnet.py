# SPDX-License-Identifier: Apache-2.0
"""Control networks: what they are shown of a sphere, and one step beside the library's own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamlab.core.cameras import Cameras, turntable
from dreamlab.core.errors import InputError, ModelError, RecipeError
from dreamlab.core.types import Frames, Prompt
from guidance.controlnet import ControlNet
from guidance.latent.controls import depth_picture, normal_picture, picture
from tests.guidance.latent.test_core import latents, sd

PROMPT = Prompt("a red mushroom", "ugly")


def sphere(count: int = 2, size: int = 65) -> tuple[Frames, Cameras]:
    """A sphere of radius 0.7 as cameras see it, by the closed form along their rays (nearly parallel)."""
    cameras = turntable(count)
    place = (torch.arange(size) + 0.5) * (2 / size) - 1
    across, up = place[None, :].expand(size, -1), -place[:, None].expand(-1, size)
    inside = across.square() + up.square() < 0.49
    towards = (0.49 - across.square() - up.square()).clamp(min=0).sqrt()
    normal = torch.stack([across, up, towards], -1) / 0.7 * inside[..., None]  # in the camera's axes
    turn = cameras.camera_to_world[:, :3, :3]
    world = torch.einsum("bij,hwj->bhwi", turn, normal)
    depth = ((4 - towards) * inside).expand(count, -1, -1)[..., None]
    alpha = inside.float().expand(count, -1, -1)[..., None]
    return Frames(alpha.expand(-1, -1, -1, 3), alpha, depth, torch.zeros(count, 3), world), cameras


def filled(net: nn.Module) -> None:
    """Control networks are born adding exactly nothing."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if not parameter.any():
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def nets(random_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two control networks of three channels, and one that is shown the light."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(str(random_folder("sd15") / "unet"))
    made = {}
    other = UNet2DConditionModel.from_config({**unet.config, "cross_attention_dim": 16})
    beside = {"depth": (unet, 3), "normal": (unet, 3), "light": (unet, 22), "other": (other, 3)}
    for seed, (name, (unet, channels)) in enumerate(beside.items()):
        torch.manual_seed(seed)
        widths = (8, 8, 8, 8)
        net = ControlNetModel.from_unet(unet, conditioning_channels=channels,
                                        conditioning_embedding_out_channels=widths)  # fmt: skip
        filled(net)
        made[name] = tmp_path_factory.mktemp(name)
        net.save_pretrained(made[name])
    return made


def controlled(folder: Path, *shown: Path, maps: tuple[str, ...], scales: tuple[float, ...]) -> ControlNet:
    names = tuple(str(place) for place in shown)
    settings = ControlNet.Settings(model=str(folder), dtype="float32", controls=names, maps=maps, scales=scales)
    return ControlNet.build(settings, None).to("cpu")


def test_normals_of_a_sphere_are_red_left_green_up_and_blue_in_the_middle() -> None:
    frames, cameras = sphere()
    seen = normal_picture(frames, cameras)
    for view in seen:
        left, right, top, middle = view[32, 11], view[32, 53], view[11, 32], view[32, 32]
        assert left[0] > 0.9 > 0.1 > right[0] and top[1] > 0.9
        torch.testing.assert_close(middle, torch.tensor([0.5, 0.5, 1.0]), atol=0.02, rtol=0)
        torch.testing.assert_close(view[0, 0], torch.tensor([0.5, 0.5, 1.0]))  # nothing there faces the viewer
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=0)  # a sphere is the same from everywhere


def test_depth_is_bright_where_near_and_nothing_is_black() -> None:
    frames, _ = sphere()
    seen = depth_picture(frames)
    assert seen[0, 0, 0] == 0 and seen[0, 32, 32] == pytest.approx(1.0)
    there = frames.alpha > 0
    assert seen[there].min() == pytest.approx(0.3) and (seen[there] <= 1).all()
    # Inverse depth, linearly between its own ends.
    inverse = 1 / frames.depth[there]
    expected = 0.3 + 0.7 * (inverse - inverse.min()) / (inverse.max() - inverse.min())
    torch.testing.assert_close(seen[there], expected)


def test_light_has_its_channels_in_order() -> None:
    frames, cameras = sphere()
    with pytest.raises(InputError, match="light_pictures"):
        picture("light", frames, cameras)
    lights = torch.rand(2, 65, 65, 18)
    lit = Frames(frames.rgb, frames.alpha, frames.depth, frames.background, frames.normal, extra={"lights": lights})
    seen = picture("light", lit, cameras)
    assert seen.shape[-1] == 22
    assert torch.equal(seen[..., :1], depth_picture(lit)) and torch.equal(seen[..., 4:], lights)
    assert torch.equal(seen[..., 1:4], normal_picture(lit, cameras))
    assert lit.take([1]).extra["lights"].shape == (1, 65, 65, 18)


@pytest.mark.parametrize("count", [1, 2])
def test_one_step_equals_the_library_s_pipeline(random_folder: Callable[..., Path], nets: dict[str, Path],
                                                count: int) -> None:  # fmt: skip
    """Its U-Net answers, spied on; of two networks the library's pipeline adds the residuals itself."""
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline

    folder, kinds, scales = random_folder("sd15"), ("depth", "normal")[:count], (0.8, 0.5)[:count]
    mine = controlled(folder, *(nets[kind] for kind in kinds), maps=kinds, scales=scales)
    frames, cameras = sphere(1, mine.side)
    z = latents(mine, 1)
    theirs = [ControlNetModel.from_pretrained(str(nets[kind])) for kind in kinds]
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        str(folder), controlnet=theirs, safety_checker=None, feature_extractor=None
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    said: list[tuple[Tensor, Tensor]] = []
    forward = pipeline.unet.forward

    def spy(sample: Tensor, time: Tensor, **more: object) -> object:
        made = forward(sample, time, **more)
        said.append((time, made[0] if isinstance(made, tuple) else made.sample))
        return made

    pipeline.unet.forward = spy
    shown = [picture(kind, frames, cameras).permute(0, 3, 1, 2) for kind in kinds]
    pipeline(PROMPT.text, shown, negative_prompt=PROMPT.negative, num_inference_steps=2, latents=z.clone(),
             controlnet_conditioning_scale=list(scales), output_type="latent")  # fmt: skip
    time, (null, text) = said[0][0], said[0][1]
    told = mine.condition(PROMPT, cameras, frames)
    t = torch.tensor([int(time)])
    torch.testing.assert_close(mine.predict(z, t, told["text"])[0], text, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(mine.predict(z, t, told["negative"])[0], null, rtol=1e-4, atol=2e-5)
    plain = sd(folder)
    without = plain.predict(z, t, plain.condition(PROMPT, cameras, frames)["text"])[0]
    assert (without - text).abs().max() > 1e-2  # the control says something


def test_rows_in_pieces_take_their_own_pictures(random_folder: Callable[..., Path], nets: dict[str, Path]) -> None:
    mine = controlled(random_folder("sd15"), nets["depth"], maps=("depth",), scales=(1.0,))
    frames, cameras = sphere(3, mine.side)
    shifted = Frames(frames.rgb, frames.alpha, frames.depth * torch.rand(3, mine.side, mine.side, 1) + 1,
                     frames.background, frames.normal)  # fmt: skip
    told = mine.condition(PROMPT, cameras, shifted)["text"]
    z, t = latents(mine, 3), torch.tensor([5, 500, 900])
    whole = mine.predict(z, t, told)
    mine.ladder.rows = 1
    torch.testing.assert_close(mine.predict(z, t, told), whole, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_together_is_said(random_folder: Callable[..., Path], nets: dict[str, Path]) -> None:
    folder = random_folder("sd15")
    with pytest.raises(RecipeError, match="controls, maps and scales must be as many"):
        ControlNet.card(ControlNet.Settings(controls=("a", "b")))
    with pytest.raises(ModelError, match="shown pictures of 22 channels; depth has 3"):
        controlled(folder, nets["light"], maps=("depth",), scales=(1.0,))
    with pytest.raises(ModelError, match="was trained beside another model"):
        controlled(folder, nets["other"], maps=("depth",), scales=(1.0,))
    card = ControlNet.card(ControlNet.Settings(maps=("light",)))
    assert card.lights and card.normals and not ControlNet.card(ControlNet.Settings()).normals


def test_four_views_are_shown_side_by_side(random_folder: Callable[..., Path], nets: dict[str, Path]) -> None:
    """What the network is shown of a grid is the halved pictures of its views, row by row."""
    mine = controlled(random_folder("sd15"), nets["depth"], maps=("depth",), scales=(1.0,))
    frames, cameras = sphere(8, mine.side)
    told = mine.condition(PROMPT, cameras, frames)
    shown, each = told["grid"].rows["shown0"], told["text"].rows["shown0"]
    assert shown.shape == (2, 3, mine.side, mine.side) and told["grid_null"].rows["text"].shape[0] == 2
    half = mine.side // 2
    small = torch.nn.functional.avg_pool2d(each, 2)
    for view in range(4):
        top, left = half * (view // 2), half * (view % 2)
        torch.testing.assert_close(shown[1, :, top : top + half, left : left + half], small[4 + view])
    worded = mine.condition(Prompt(f"a 2 x 2 grid of views of {PROMPT.text}"), cameras, frames)
    torch.testing.assert_close(told["grid"].rows["text"], worded["text"].rows["text"][:2])
    assert mine.predict(latents(mine, 2), torch.tensor([5, 900]), told["grid"]).isfinite().all()
