# SPDX-License-Identifier: Apache-2.0
"""One file is the same guidance as the folder of the same networks, and a LoRA is in it before the first call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamlab.core.cameras import turntable
from dreamlab.core.errors import ModelError, RecipeError
from dreamlab.core.types import Frames, Prompt
from guidance.latent import lora_files
from guidance.sd import StableDiffusion
from tests.guidance.latent import old_names as old

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

BLANK = Frames(torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16, 1), torch.zeros(1, 16, 16, 1), torch.zeros(1, 3))
Made = tuple[Path, Path, dict[str, nn.Module]]


@pytest.fixture(scope="module")
def made(random_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """The same networks as a folder and as a file, for SD 1 and SD 2 (which predicts v here)."""
    from safetensors.torch import save_file

    found = {}
    for kind, like in (("sd1", "sd15"), ("sd2", "sd21v")):
        place = tmp_path_factory.mktemp(kind)
        state, nets = old.whole(kind)
        file = place / f"{kind}.safetensors"
        save_file(state, file)
        folder = Path(shutil.copytree(random_folder(like), place / "folder"))
        for part, net in nets.items():
            shutil.rmtree(folder / part)
            net.save_pretrained(folder / part)
        found[kind] = file, folder, nets
    return found


def said(model: Path, **settings: object) -> tuple[Tensor, Tensor, StableDiffusion]:
    """Answer and text's rows."""
    settings = {"model": str(model), "dtype": "float32", "size": 64, **settings}
    built = StableDiffusion.build(StableDiffusion.Settings(**settings), None).to("cpu")
    told = built.condition(Prompt("a red mushroom"), turntable(1), BLANK)["text"]
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return built.predict(z, torch.tensor([700]), told), told.rows["text"], built


@pytest.mark.parametrize(("kind", "asked"), [("sd1", {}), ("sd2", {"prediction": "v_prediction"})])
def test_a_file_answers_as_the_folder_of_its_networks(kind: str, asked: dict[str, str], made: dict[str, Made]) -> None:
    file, folder, _ = made[kind]
    eps, text, by_folder = said(folder)
    for tokenizer in (folder, folder / "tokenizer"):
        eps_too, text_too, by_file = said(file, tokenizer=str(tokenizer), **asked)
        torch.testing.assert_close((eps_too, text_too), (eps, text), rtol=1e-4, atol=1e-4)
    assert by_file.clock.form == by_folder.clock.form == ("v" if kind == "sd2" else "eps")
    assert torch.equal(by_file.table.alpha_bar, by_folder.table.alpha_bar)
    picture = torch.rand(1, 64, 64, 3)
    torch.testing.assert_close(by_file.encode(picture), by_folder.encode(picture), rtol=1e-4, atol=1e-4)
    assert by_file.trained_at == (768 if kind == "sd2" else 512)


def test_a_file_s_encoder_decides_how_texts_are_padded(made: dict[str, Made]) -> None:
    """With any CLIP tokenizer: 0 behind the texts of SD 2's OpenCLIP, the end of text again behind SD 1's."""
    ours = {}
    for kind in ("sd1", "sd2"):
        file, _, _ = made[kind]
        other = made["sd2" if kind == "sd1" else "sd1"][1]
        source = said(file, tokenizer=str(other), prediction="epsilon" if kind == "sd2" else "")[2].source
        ours[kind] = source.tokenizer("tokenizer", "CLIPTokenizer")("a", padding="max_length", max_length=77).input_ids
    end = ours["sd1"][-1]
    assert ours["sd2"][-1] == 0 and end == 513
    assert ours["sd2"].index(end) == ours["sd1"].index(end)


def test_what_a_file_does_not_tell_and_what_is_no_model_is_one_line(made: dict[str, Made], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not tell what it predicts"):
        said(made["sd2"][0], tokenizer=str(made["sd2"][1]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no model_index\.json; give the folder of a whole model.*or one file"):
        said(tmp_path / "empty")
    pickled = tmp_path / "model.ckpt"
    torch.save({"state_dict": old.whole("sd1")[0]}, pickled)
    with pytest.raises(ModelError, match=r"legacy: model\.ckpt"):
        said(pickled, tokenizer=str(made["sd1"][1]))
    torch.testing.assert_close(
        said(pickled, tokenizer=str(made["sd1"][1]), legacy="model.ckpt")[0],
        said(made["sd1"][1])[0],
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_lora_is_in_network_and_text_encoder_before_the_first_call(made: dict[str, Made], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file, folder, nets = made["sd1"]
    layers = {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (64, 64),
        "lora_te_text_model_encoder_layers_1_self_attn_v_proj": (64, 64),
    }
    state = {}
    for stem, (outer, inner) in layers.items():
        state |= {f"{stem}.lora_down.weight": torch.randn(2, inner), f"{stem}.lora_up.weight": torch.randn(outer, 2)}
        state[f"{stem}.alpha"] = torch.tensor(1.0)
    lora = tmp_path / "style.safetensors"
    save_file(state, lora)
    plain, heard, _ = said(folder)
    changed, text, model = said(folder, lora=(str(lora),), lora_scales=(0.5,))
    assert (heard - text).abs().max() > 0.01 and (plain - changed).abs().max() > 1e-4
    weight = model.module.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    before = nets["unet"].mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    stem = next(iter(layers))
    delta = 0.5 * 0.5 * state[f"{stem}.lora_up.weight"] @ state[f"{stem}.lora_down.weight"]
    torch.testing.assert_close(weight, before + delta)
    by_file = said(file, lora=(str(lora),), lora_scales=(0.5,), tokenizer=str(folder))[0]
    torch.testing.assert_close(by_file, changed, rtol=1e-4, atol=1e-4)
    assert len(lora_files.read(lora)) == 2
    state["lora_te2_text_model_encoder_layers_1_self_attn_v_proj.lora_down.weight"] = torch.randn(2, 64)
    state["lora_te2_text_model_encoder_layers_1_self_attn_v_proj.lora_up.weight"] = torch.randn(64, 2)
    save_file(state, lora)
    with pytest.raises(ModelError, match="has layers of a text_encoder_2"):
        said(folder, lora=(str(lora),))


def test_the_folder_of_the_comparison_is_as_users_have_it(made: dict[str, Made]) -> None:
    """So that both sides of the comparison are not of this test's making."""
    index = json.loads((made["sd2"][1] / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["tokenizer"] == ["transformers", "CLIPTokenizer"]


def test_a_file_without_any_tokenizer_is_heard_by_clip_s_own(made: dict[str, Made]) -> None:
    for kind, pad in (("sd1", 49407), ("sd2", 0)):
        source = StableDiffusion.build(
            StableDiffusion.Settings(model=str(made[kind][0]), prediction="epsilon"), None
        ).source  # fmt: skip
        ids = source.tokenizer("tokenizer", "CLIPTokenizer")("red", padding="max_length").input_ids
        assert ids[:3] == [49406, 736, 49407] and ids[-1] == pad and len(ids) == 77


def test_several_loras_add_up_and_each_needs_a_scale_or_none(made: dict[str, Made], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder, name = made["sd1"][1], "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    files, total = [], torch.zeros(64, 64)
    for i, scale in enumerate((1.0, -0.5)):
        down, up = torch.randn(2, 64), torch.randn(64, 2)
        files.append(str(tmp_path / f"{i}.safetensors"))
        save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, files[-1])
        total = total + scale * up @ down
    model = said(folder, lora=tuple(files), lora_scales=(1.0, -0.5))[2]
    before = made["sd1"][2]["unet"].mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    mine = model.module.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    torch.testing.assert_close(mine, before + total, rtol=1e-4, atol=1e-4)
    with pytest.raises(RecipeError, match="lora_scales: 1 of them for 2 LoRA files"):
        said(folder, lora=tuple(files), lora_scales=(1.0,))
