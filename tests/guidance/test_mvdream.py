# SPDX-License-Identifier: Apache-2.0
"""MVDream: the camera as it was trained with, views joined and groups apart, from every kind of file it comes in.

The attention over all views is written out here once more, pixel lists and softmax, and put into the same U-Net.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamlab.core.cameras import Cameras, orbit, turntable
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.types import Condition, Frames, Prompt
from guidance.latent.joint import told
from guidance.mvdream import MultiViewDream
from tests.guidance.latent import old_names

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

PROMPT = Prompt("a red mushroom", "ugly")


class Straight:
    """Self-attention over the pixels of `views` rows in a row, group by group and head by head."""

    def __init__(self, views: int) -> None:
        self.views = views

    def __call__(self, attn: nn.Module, hidden_states: Tensor, **kwargs: object) -> Tensor:
        made = []
        for group in hidden_states.split(self.views):
            pixels = torch.cat(list(group))  # one list of all views' pixels
            q, k, v = (layer(pixels).chunk(attn.heads, -1) for layer in (attn.to_q, attn.to_k, attn.to_v))
            heads = [(a @ b.T / a.shape[-1] ** 0.5).softmax(-1) @ c for a, b, c in zip(q, k, v, strict=True)]
            made += attn.to_out[0](torch.cat(heads, -1)).chunk(self.views)
        return torch.stack(made)


def straight(net: nn.Module, views: int) -> nn.Module:
    """A copy of a U-Net whose views are joined by the formula."""
    other = copy.deepcopy(net)
    processors = {n: Straight(views) if "attn1" in n else p for n, p in other.attn_processors.items()}
    other.set_attn_processor(processors)
    return other


def frames(count: int, gray: float = 0.0) -> Frames:
    blank = torch.zeros(count, 16, 16, 1)
    return Frames(blank.expand(-1, -1, -1, 3), blank, blank, torch.full((count, 3), gray))


def mvdream(place: Path, **settings: object) -> MultiViewDream:
    chosen = {"model": str(place), "dtype": "float32", "size": 64, **settings}
    return MultiViewDream.build(MultiViewDream.Settings(**chosen), None).to("cpu")


def asked(model: MultiViewDream, cameras: Cameras) -> dict[str, Condition]:
    return dict(model.condition(PROMPT, cameras, frames(len(cameras))))


def latents(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("mvdream")


@pytest.fixture(scope="module")
def model(folder: Path) -> MultiViewDream:
    return mvdream(folder)


# ---- the camera ------------------------------------------------------------------------------------------------------
def test_our_front_is_their_front() -> None:
    """On +x with +z up, as the demo of the authors and threestudio have it."""
    (front,) = told(orbit([0.0], 0.0, 3.3)).reshape(-1, 4, 4)
    torch.testing.assert_close(front[:3, 3], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(front[:3, 1], torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        front[:3, 2], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0
    )  # looks along -z of its own
    assert front[3].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (30, 20), (140, -15), (-100, 60)])
def test_every_camera_is_theirs_by_their_formula(azimuth: float, elevation: float) -> None:
    """threestudio's cameras: z up, azimuth from +x to +y, c2w of right, up and backward, at distance one."""
    a, e = math.radians(azimuth), math.radians(elevation)
    position = torch.tensor([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = torch.linalg.cross(-position, torch.tensor([0.0, 0.0, 1.0]))
    right = right / right.norm()
    up = torch.linalg.cross(right, -position)
    wanted = torch.eye(4)
    wanted[:3] = torch.stack([right, up, position, position], 1)
    cameras = orbit([float(azimuth)], float(elevation), 2.7)
    before = cameras.camera_to_world.clone()
    torch.testing.assert_close(told(cameras).reshape(4, 4), wanted, atol=1e-5, rtol=0)
    assert torch.equal(cameras.camera_to_world, before)


def test_a_view_may_count_as_the_front() -> None:
    torch.testing.assert_close(
        told(orbit([90.0, 130.0], 10.0), 90.0), told(orbit([0.0, 40.0], 10.0)), atol=1e-6, rtol=0
    )


# ---- joined views ----------------------------------------------------------------------------------------------------
def test_one_call_equals_the_formula_and_both_halves_have_the_camera(model: MultiViewDream) -> None:
    """Rows of the text's groups, then of the null's, as guidance asks for them."""
    cameras = orbit([0, 90, 180, 270, 10, 100, 190, 280], [10.0] * 4 + [30.0] * 4)
    said = asked(model, cameras)
    both, z = Condition.cat([said["text"], said["null"]]), latents(8).repeat(2, 1, 1, 1)
    t = torch.tensor([700] * 4 + [200] * 4).repeat(2)
    seen: list[dict[str, Tensor]] = []
    handle = model.module.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    eps = model.predict(z, t, both)
    handle.remove()
    ((labels),) = [kwargs["class_labels"] for kwargs in seen]
    torch.testing.assert_close(labels, told(cameras).repeat(2, 1), rtol=0, atol=0)
    rows = both.rows["text"]
    assert torch.equal(rows[0], rows[7]) and torch.equal(rows[8], rows[15]) and not torch.equal(rows[0], rows[8])
    expected = straight(model.module, 4)(z, t, rows, class_labels=labels)[0]
    torch.testing.assert_close(eps, expected, rtol=1e-4, atol=1e-4)


def test_views_see_each_other_and_groups_do_not(model: MultiViewDream) -> None:
    cameras, z, t = turntable(8), latents(8), torch.full((8,), 500)
    told_ = asked(model, cameras)["text"]
    eps = model.predict(z, t, told_)
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    torch.testing.assert_close(model.predict(z[order], t, told_.take(order)), eps[order], rtol=1e-4, atol=1e-5)
    rolled = torch.arange(8).roll(4)
    torch.testing.assert_close(model.predict(z[rolled], t, told_.take(rolled)), eps[rolled], rtol=0, atol=3e-6)
    other = z.clone()
    other[1] += 1
    changed = model.predict(other, t, told_)
    assert (changed[0] - eps[0]).abs().max() > 1e-3
    torch.testing.assert_close(changed[4:], eps[4:], rtol=0, atol=3e-6)


def test_pieces_are_whole_groups(model: MultiViewDream) -> None:
    z, t = latents(8), torch.full((8,), 500)
    told_ = asked(model, turntable(8))["text"]
    whole = model.predict(z, t, told_)
    model.ladder.rows = 5
    try:
        torch.testing.assert_close(model.predict(z, t, told_), whole, rtol=1e-4, atol=1e-5)
    finally:
        model.ladder.rows = 0
    with pytest.raises(InputError, match="4 views together; give a multiple of 4"):
        asked(model, turntable(6))


def test_one_view_is_stable_diffusion_where_the_camera_adds_nothing(model: MultiViewDream) -> None:
    """Its net's output must be zero for that; a camera of zeros still speaks through biases."""
    from diffusers import UNet2DConditionModel

    own = copy.deepcopy(model.module)
    config = {k: v for k, v in dict(own.config).items() if not k.startswith("_") and "class_embed" not in k}
    plain = UNet2DConditionModel(**config).eval()
    plain.load_state_dict({k: v for k, v in own.state_dict().items() if not k.startswith("class_embedding")})
    z, t, told_ = latents(1), torch.tensor([600]), asked(model, turntable(1))["text"]
    expected = plain(z, t, told_.rows["text"])[0]
    silent = replace(told_, rows={**told_.rows, "camera": torch.zeros(1, 16)})
    assert (model.predict(z, t, silent) - expected).abs().max() > 1e-2
    for value in model.module.class_embedding.linear_2.parameters():
        value.zero_()
    try:
        torch.testing.assert_close(model.predict(z, t, told_), expected, rtol=1e-4, atol=1e-5)
    finally:
        model.module.load_state_dict(own.state_dict())


def test_a_trained_copy_is_heard_in_the_joint_attention(model: MultiViewDream) -> None:
    z, t, told_ = latents(4), torch.full((4,), 400), asked(model, turntable(4))["text"]
    adapter, camera = model.adapter(2), torch.zeros(4, 16)
    start = dict(adapter.start())
    torch.testing.assert_close(adapter.apply(start, z, t, told_, camera), model.predict(z, t, told_), rtol=0, atol=1e-6)
    place = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    params = {name: value.clone().requires_grad_() for name, value in start.items()}
    adapter.apply(params, z, t, told_, camera).square().sum().backward()
    assert params[f"{place}.up"].grad.abs().max() > 0
    start[f"{place}.up"] = torch.ones_like(start[f"{place}.up"])
    assert (adapter.apply(start, z, t, told_, camera) - model.predict(z, t, told_)).abs().max() > 1e-4


def test_a_compiled_part_joins_its_views_too(model: MultiViewDream) -> None:
    """In one graph, also when the number of views changes."""
    part = model.module.mid_block.attentions[0]
    compiled = torch.compile(part, backend="eager", fullgraph=True)
    x, rows = torch.randn(4, 128, 2, 2), torch.randn(4, 7, 64)
    for count in (4, 2, 4):
        model.views.count = count
        said = compiled(x, rows, return_dict=False)[0]  # as the U-Net asks; the class of the other answer warns
        torch.testing.assert_close(said, part(x, rows)[0], rtol=0, atol=0)


# ---- files -----------------------------------------------------------------------------------------------------------
def test_three_kinds_of_files_are_one_model(folder: Path, model: MultiViewDream, tmp_path: Path) -> None:
    """The converted folder with the original names, and one with diffusers' own class."""
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    shutil.rmtree(plain / "unet")
    copy.deepcopy(model.module).save_pretrained(plain / "unet")
    assert json.loads((folder / "unet/config.json").read_text())["_class_name"] == "MultiViewUNetModel"
    assert json.loads((plain / "unet/config.json").read_text())["_class_name"] == "UNet2DConditionModel"
    z, t, cameras = latents(4), torch.full((4,), 321), turntable(4)
    expected = model.predict(z, t, asked(model, cameras)["text"])
    other = mvdream(plain)
    torch.testing.assert_close(other.predict(z, t, asked(other, cameras)["text"]), expected, rtol=1e-4, atol=1e-5)
    assert model.clock.form == "eps" and abs(float(model.table.alpha_bar[500]) - 0.27633247) < 1e-6


def test_the_original_checkpoint(tmp_path: Path) -> None:
    """Plain pickled tensors without a wrapper, as the authors' file."""
    state, nets = old_names.whole("mvdream")
    path = tmp_path / "sd-v2.1-base-4view.pt"
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"legacy: sd-v2\.1-base-4view\.pt"):
        mvdream(path)
    mine = mvdream(path, legacy=path.name)
    z, t, rows = latents(4), torch.full((4,), 321), torch.randn(4, 7, 64)
    camera, group = told(turntable(4)), torch.empty(4)
    said = mine.predict(z, t, Condition({"text": rows, "camera": camera}, {"group": group}))
    expected = straight(nets["unet"], 4)(z, t, rows, class_labels=camera)[0]
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_told_a_camera_or_lacks_a_tensor_is_refused(
    folder: Path, random_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(random_folder("sd21"), tmp_path / "sd21"))
    (other / "model_index.json").write_text((folder / "model_index.json").read_text())
    with pytest.raises(ModelError, match="not told a camera"):
        mvdream(other)
    spoilt = Path(shutil.copytree(folder, tmp_path / "spoilt"))
    weights = spoilt / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state.pop("camera_embed.2.bias")
    save_file(state, weights)
    with pytest.raises(ModelError, match=r"1 of 690 tensors do not fit \(class_embedding\.linear_2\.bias is missing\)"):
        mvdream(spoilt)


def test_a_stage_gives_the_views_of_a_group_one_time(folder: Path, tmp_path: Path) -> None:
    """Through the recipe, with a rule that draws a time for each view; a picture's own model keeps them apart."""
    from dreamlab.recipe import load
    from dreamlab.recipe.tables import TABLES
    from dreamlab.run.assemble import Assembler

    text = f"""
prompt: a red mushroom
stages:
  - name: shape
    scene: {{kind: gaussians, count: 20}}
    terms:
      - {{guidance: {{kind: mvdream, model: {folder}, size: 64}}, system: sds}}
      - {{guidance: {{kind: oracle}}, system: sds}}
    steps: 1
    views: 8
    size: 16
    cameras: {{ring: 4}}
"""
    stage = Assembler(load(text, TABLES), "cpu", tmp_path).stage(0)
    assert [term.at_once for term in stage.terms] == [4, 1]
