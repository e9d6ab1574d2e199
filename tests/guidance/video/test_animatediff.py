# SPDX-License-Identifier: Apache-2.0
"""AnimateDiff on a tiny Stable Diffusion folder and a tiny motion adapter, judged by the library's own pipeline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamlab.core.cameras import turntable
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.noise import cfg
from guidance.animatediff import AnimateDiff, motion_adapter
from guidance.latent.clips import as_clips, as_frames
from guidance.layouts.parts import Config
from tests.guidance.pretrained import PROMPT, frames, keeper, spied
from tests.guidance.video.common import MOTION, adapter, asked, check_encode, drawn, eps_of

F = 3  # neither channels (4) nor clips (2)
ORIGINAL: Config = MOTION | {
    "block_out_channels": [32, 64], "motion_num_attention_heads": 8, "motion_norm_num_groups": 32,
}  # fmt: skip
LINEAR = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture(scope="module")
def places(random_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return random_folder("sd15"), adapter(tmp_path_factory.mktemp("motion") / "adapter")


def built(places: tuple[Path, Path], **settings: object) -> AnimateDiff:
    own = {"model": str(places[0]), "motion": str(places[1]), "dtype": "float32", "frames": F, **settings}
    return AnimateDiff.build(AnimateDiff.Settings(**own), None).to("cpu")


@pytest.fixture(scope="module")
def model(places: tuple[Path, Path]) -> AnimateDiff:
    return built(places)


def test_one_step_equals_the_library_s_pipeline(places: tuple[Path, Path], model: AnimateDiff) -> None:
    from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter

    motion = MotionAdapter.from_pretrained(str(places[1]))
    pipeline = AnimateDiffPipeline.from_pretrained(str(places[0]), motion_adapter=motion, feature_extractor=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **LINEAR)
    pipeline.set_progress_bar_config(disable=True)
    z, kept = drawn(F, 4, 8, 8), list[Tensor]()
    with spied(pipeline.unet) as seen:
        pipeline(
            PROMPT.text, negative_prompt=PROMPT.negative, num_frames=F, num_inference_steps=2, guidance_scale=7.5,
            latents=as_clips(z, F).contiguous(), height=64, width=64, output_type="latent",
            callback_on_step_end=keeper(kept),
        )  # fmt: skip
    first, then = (int(t) for t in pipeline.scheduler.timesteps)
    negative, text = eps_of(model, z, first, ("negative", "text"))
    theirs = seen[0][1][0]
    assert theirs.shape == (2, 4, F, 8, 8)
    torch.testing.assert_close(
        torch.stack([negative, text]), as_frames(theirs).unflatten(0, (2, F)), rtol=1e-4, atol=1e-5
    )
    moved = model.table.ddim_move(z, cfg(negative, text, 7.5), torch.tensor([first] * F), torch.tensor([then] * F))
    torch.testing.assert_close(moved, as_frames(kept[0]), rtol=1e-4, atol=2e-5)


def test_the_noise_is_the_adapter_s_and_not_the_folder_s(places: tuple[Path, Path], model: AnimateDiff) -> None:
    assert model.table.alpha_bar[500].item() == pytest.approx(0.16077162, rel=1e-5)
    assert model.table.alpha_bar[980].item() == pytest.approx(0.0019822165, rel=1e-4)
    other = built(places, betas="scaled_linear")
    assert other.table.alpha_bar[500].item() == pytest.approx(0.27633247, rel=1e-5)
    assert model.clock.form == "eps"


def test_clips_are_scored_apart_and_their_frames_together(model: AnimateDiff) -> None:
    """Two clips in one call are two calls; a frame's answer depends on the others of its clip, and on their order."""
    z = drawn(2 * F, 4, 8, 8, seed=2)
    both = eps_of(model, z, 300, ("text",), clips=2)[0]
    apart = [eps_of(model, part, 300, ("text",))[0] for part in z.split(F)]
    torch.testing.assert_close(both, torch.cat(apart), rtol=1e-4, atol=1e-5)
    turned = eps_of(model, z[:F].flip(0), 300, ("text",))[0].flip(0)
    assert (turned - apart[0]).abs().max() > 1e-3  # the order of frames is heard
    model.ladder.rows = F + 1  # a clip at a time, for what is left over is none
    try:
        torch.testing.assert_close(eps_of(model, z, 300, ("text",), clips=2)[0], both, rtol=1e-4, atol=1e-5)
    finally:
        model.ladder.rows = 0


def test_the_gradient_of_every_frame(places: tuple[Path, Path], model: AnimateDiff) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(str(places[0] / "vae")).double().eval()

    def straight(rgb: Tensor) -> Tensor:
        return vae.encode(2 * rgb.permute(0, 3, 1, 2) - 1).latent_dist.mode() * 0.18215

    check_encode(model, straight, clips=2)
    assert model.decode(drawn(F, 4, 8, 8)).shape == (F, 64, 64, 3)


def test_an_adapter_for_vsd_hears_the_clip_s_first_camera(model: AnimateDiff) -> None:
    own, z, t = model.adapter(2), drawn(2 * F, 4, 8, 8), torch.tensor([50] * F + [700] * F)
    told, camera = asked(model, clips=2)["text"], drawn(2 * F, 16, seed=4)
    torch.testing.assert_close(own.apply(own.start(), z, t, told, camera), model.predict(z, t, told))
    params = {**own.start(), "camera.out": drawn(*own.start()["camera.out"].shape, seed=5)}
    said = own.apply(params, z, t, told, camera)
    changed = camera.clone()
    changed[1] += 1  # of a frame that is not the first
    torch.testing.assert_close(own.apply(params, z, t, told, changed), said, rtol=0, atol=0)
    changed[F] += 1
    moved = own.apply(params, z, t, told, changed)
    torch.testing.assert_close(moved[:F], said[:F])
    assert (moved[F:] - said[F:]).abs().max() > 1e-3


def test_what_is_no_clip_is_one_line(places: tuple[Path, Path], model: AnimateDiff) -> None:
    with pytest.raises(InputError, match=r"looks at clips of 3 frames, and 4 came"):
        model.encode(torch.rand(4, 8, 8, 3))
    with pytest.raises(InputError, match=r"looks at clips of 3 frames, and 2 came"):
        model.condition(PROMPT, turntable(2), frames(2))
    with pytest.raises(InputError, match=r"frames: 7; .* knows clips of at most 6"):
        built(places, frames=7)


def test_another_network_as_motion_is_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"unet: is a UNet2DConditionModel; `motion` takes a MotionAdapter"):
        motion_adapter(str(places[0] / "unet"), torch.float32)
    deeper = adapter(tmp_path / "deeper", MOTION | {"motion_layers_per_block": 2})
    with pytest.raises(ModelError, match=r"deeper: does not fit the model beside it \(Incompatible Motion Adapter"):
        built((places[0], deeper))
    with pytest.raises(ModelError, match=r"mm.safetensors: no motion modules of AnimateDiff"):
        save_file({"a": torch.zeros(1)}, tmp_path / "mm.safetensors")
        motion_adapter(str(tmp_path / "mm.safetensors"), torch.float32)


# ---- files of the original code --------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=[True, False], ids=["v2", "v1"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter's folder, and the same tensors in one file as the original code names them."""
    out = tmp_path_factory.mktemp("original")
    folder = adapter(out / "adapter", ORIGINAL | {"use_motion_mid_block": request.param})
    state = {}
    for name, value in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        head, module, tail = name.partition(".motion_modules.")
        number, _, rest = tail.partition(".")
        below = rest
        if rest.startswith("transformer_blocks.0."):
            own = rest.removeprefix("transformer_blocks.0.")
            if own == "pos_embed.pe":
                length, width = value.shape[1:]
                at, place = torch.arange(length)[:, None], torch.arange(width)
                angle = at / 10000 ** ((place // 2 * 2) / width)
                value = torch.where(place % 2 == 0, angle.sin(), angle.cos())[None]
                for i in (0, 1):
                    twin = f"transformer_blocks.0.attention_blocks.{i}.pos_encoder.pe"
                    state[f"{head}{module}{number}.temporal_transformer.{twin}"] = value.clone()
                continue
            for mine, old in (("attn1", "attention_blocks.0"), ("attn2", "attention_blocks.1"), ("norm1", "norms.0"),
                              ("norm2", "norms.1"), ("norm3", "ff_norm")):  # fmt: skip
                own = f"{old}{own.removeprefix(mine)}" if own.startswith(f"{mine}.") else own
            below = f"transformer_blocks.0.{own}"
        state[f"{head}{module}{number}.temporal_transformer.{below}"] = value
    save_file(state, out / "mm.safetensors")
    return folder, out / "mm.safetensors"


def test_an_original_file_is_the_folder_it_was_made_of(twins: tuple[Path, Path]) -> None:
    """By the library's own reader of such files, and by the tensors the file was made of."""
    from diffusers import MotionAdapter

    mine = motion_adapter(str(twins[1]), torch.float32)
    theirs = MotionAdapter.from_single_file(str(twins[1]), config=str(twins[0]))
    source = MotionAdapter.from_pretrained(str(twins[0]))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value, rtol=0, atol=1e-6)
        if not name.endswith("pos_embed.pe"):
            assert torch.equal(value, source.state_dict()[name])
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    assert mine.config.motion_max_seq_length == 6
    assert mine.config.use_motion_mid_block is source.config.use_motion_mid_block


def test_a_pickle_is_read_by_name_alone_and_a_folder_may_leave_places_out(
    twins: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = motion_adapter(str(twins[1]), torch.float32).state_dict()
    torch.save({"state_dict": load_file(twins[1])}, tmp_path / "mm.ckpt")
    with pytest.raises(ModelError, match=r"mm.ckpt: .*pickle"):
        motion_adapter(str(tmp_path / "mm.ckpt"), torch.float32)
    found = motion_adapter(str(tmp_path / "mm.ckpt"), torch.float32, "mm.ckpt").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    copy = Path(shutil.copytree(twins[0], tmp_path / "adapter"))
    file = copy / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.endswith("pos_embed.pe")}, file, {"format": "pt"})
    found = motion_adapter(str(copy), torch.float32).state_dict()
    for name, value in expected.items():  # the library makes them anew
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_an_original_file_with_a_gap_is_refused_and_named(twins: tuple[Path, Path], tmp_path: Path) -> None:
    state = load_file(twins[1])
    gone = "down_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.to_k.weight"
    state.pop(gone)
    save_file(state, tmp_path / "mm.safetensors")
    with pytest.raises(ModelError, match=r"1 of \d+ tensors do not fit \(down_blocks.1.motion_modules.0.*attn2.to_k"):
        motion_adapter(str(tmp_path / "mm.safetensors"), torch.float32)
    pe = next(name for name in state if name.endswith("pos_encoder.pe"))
    save_file(state | {pe: state[pe] + 1}, tmp_path / "mm.safetensors")
    with pytest.raises(ModelError, match="is no sinusoid"):
        motion_adapter(str(tmp_path / "mm.safetensors"), torch.float32)
