# SPDX-License-Identifier: Apache-2.0
"""SV3D from the one file it is published as, against the library's own blocks filled by the map the other way, and
angles, waves and preconditioning by the formulas of generative-models in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dreamlab.core.cameras import Cameras, OrbitSettings, orbit, sample_orbit
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.types import Condition, Prompt
from guidance.latent import ldm_names
from guidance.latent.file_kinds import recognise
from guidance.latent.orbit_file import OrbitFile
from guidance.latent.pictures import normalised, softened
from guidance.latent.tensor_files import Tensors
from guidance.layouts import LAYOUTS
from guidance.layouts.build import construct
from guidance.layouts.calls import flops
from guidance.layouts.original import video_unet_name
from guidance.layouts.random import write_random
from guidance.layouts.whole import in_whole
from guidance.sv3d import StableOrbit, TimedFrames, angles
from tests.guidance.pretrained import frames, made
from tests.guidance.test_zero123 import reference
from tests.guidance.video.common import check_encode, drawn

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

F, SIDE, HEIGHT, NET = 3, 64, 12.0, "model.diffusion_model."
GIVEN = reference(azimuth=0.0, elevation=HEIGHT, size=80)


def around(count: int = F, height: float = HEIGHT) -> Cameras:
    """As the engine draws them: the last stands where the picture does, up to the rounding of its angle."""
    first = 360 / count
    how = OrbitSettings(ring=count, azimuth_deg=(first, first), elevation_deg=(height, height))
    return sample_orbit(how, count, torch.Generator().manual_seed(0))


def built(place: Path, **settings: object) -> StableOrbit:
    mine: StableOrbit = made(StableOrbit, place, frames=F, size=SIDE, augment=0.05, picture_seed=5, **settings)
    return mine


def told(model: StableOrbit, cameras: Cameras | None = None) -> dict[str, Condition]:
    return dict(model.condition(Prompt("unheard", image=GIVEN), cameras or around(), frames(F)))


@pytest.fixture(scope="module", params=["u", "p"])
def model(request: pytest.FixtureRequest, random_folder: Callable[..., Path]) -> StableOrbit:
    return built(random_folder(f"sv3d-{request.param}"))


@pytest.fixture(scope="module")
def posed(random_folder: Callable[..., Path]) -> StableOrbit:
    return built(random_folder("sv3d-p"))


# ---- the twin --------------------------------------------------------------------------------------------------------
def networks(path: Path) -> dict[str, Any]:
    """The libraries' own networks with the file's tensors: the denoiser's found by what each is called there, which is
    the map the other way."""
    held, layout = load_file(path), LAYOUTS[path.stem.replace("_", "-")]
    nets = {}
    for part in layout.parts:
        net = construct(part, "tiny", "cpu")
        if part.folder == "unet":
            config = part.config("tiny")
            state = {name: held[f"{NET}{video_unet_name(name, config)}"] for name in net.state_dict()}
        else:
            state = joined(part.folder, held)
        net.load_state_dict(state, strict=True)
        nets[part.folder] = net.eval()
    return nets


def joined(folder: str, held: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the tower and the autoencoder, whose maps other tests judge, by those maps."""
    prefix = "conditioner.embedders." + ("1.encoder." if folder == "vae" else "0.open_clip.model.visual.")
    own = ldm_names.under(held, prefix)
    return ldm_names.vae(own) if folder == "vae" else ldm_names.clip_vision(own)


def sinusoid(x: float, width: int) -> np.ndarray:
    speed = np.exp(-np.log(10000) * np.arange(width // 2) / (width // 2))
    return np.concatenate([np.cos(x * speed), np.sin(x * speed)])


def vector(which: str, augment: float, count: int) -> Tensor:
    """[F, V] as their sampling script and its embedders make it."""
    rows = []
    azimuths = np.linspace(0, 360, count + 1)[1:] % 360
    for azimuth in azimuths:
        parts = [sinusoid(augment, 256)]
        if which == "p":
            parts += [sinusoid(np.deg2rad(90 - HEIGHT), 512)]
            parts += [sinusoid(np.deg2rad((azimuth - azimuths[-1]) % 360), 512)]
        rows.append(np.concatenate(parts))
    return torch.from_numpy(np.stack(rows)).float()


@contextmanager
def each_frame_told(net: Any, rows: Tensor) -> Iterator[None]:
    """The library's network adds nothing to a clip's time; every block of it is told its frames' own instead."""
    labels, inner = net.add_embedding(rows), net.add_embedding.forward
    net.add_embedding.forward = lambda x: torch.zeros(len(x), labels.shape[1])

    def add(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if "temb" in kwargs:
            return args, {**kwargs, "temb": kwargs["temb"] + labels}
        return (args[0], args[1] + labels, *args[2:]), kwargs

    blocks = [module for module in net.modules() if type(module).__name__ == "SpatioTemporalResBlock"]
    handles = [block.register_forward_pre_hook(add, with_kwargs=True) for block in blocks]
    yield
    for handle in handles:
        handle.remove()
    net.add_embedding.forward = inner


def test_one_step_equals_their_preconditioned_network(model: StableOrbit) -> None:
    """All that goes in and comes out, both halves of guidance."""
    which = "p" if model.posed else "u"
    nets, sigma = networks(Path(model.source.path)), 1.7
    over = GIVEN.rgb * GIVEN.alpha + 1 - GIVEN.alpha
    picture = torch.nn.functional.interpolate(
        2 * over.permute(2, 0, 1)[None] - 1, (SIDE, SIDE), mode="bilinear", antialias=True
    )
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(5))
    x = sigma * drawn(1, F, 4, 8, 8)
    c_in, c_skip, c_out = 1 / (sigma**2 + 1) ** 0.5, 1 / (sigma**2 + 1), -sigma / (sigma**2 + 1) ** 0.5
    with torch.no_grad():
        beside = nets["vae"].encode(picture + 0.05 * noise).latent_dist.mode()
        small = softened(2 * over.permute(2, 0, 1)[None] - 1, 224)
        seen = nets["image_encoder"](normalised((small + 1) / 2)).image_embeds[:, None]
        denoised = {}
        for name, share in (("null", 0.0), ("text", 1.0)):
            clip = torch.cat([c_in * x, share * beside[:, None].expand(-1, F, -1, -1, -1)], 2)
            with each_frame_told(nets["unet"], vector(which, 0.05, F)):
                numbers = torch.zeros(1, nets["unet"].config.projection_class_embeddings_input_dim // 256)
                said = nets["unet"](clip, torch.tensor(0.25 * math.log(sigma)), share * seen, numbers)[0]
            denoised[name] = (c_out * said + c_skip * x)[0]
    t = int((model.clock.time - 0.25 * math.log(sigma)).abs().argmin())
    kept = model.clock.time[t].clone(), model.table.alpha_bar[t].clone()
    model.clock.time[t], model.table.alpha_bar[t] = 0.25 * math.log(sigma), c_skip
    asked = told(model)
    both = Condition.cat([asked["null"], asked["text"]])
    z_t = (c_in * x[0]).repeat(2, 1, 1, 1)
    times = torch.full((2 * F,), t)
    mine = dict(
        zip(("null", "text"), model.table.x0(z_t, model.predict(z_t, times, both), times).chunk(2), strict=True)
    )
    model.clock.time[t], model.table.alpha_bar[t] = kept
    for name in ("null", "text"):
        torch.testing.assert_close(mine[name], denoised[name], rtol=1e-3, atol=1e-3)
    assert (denoised["text"] - denoised["null"]).abs().max() > 1e-2
    assert set(asked) == {"text", "null"} and torch.equal(asked["text"].rows["vector"], asked["null"].rows["vector"])


def test_its_own_sampler_guides_by_a_triangle(posed: StableOrbit) -> None:
    """2 |v - [v + 1/2]| of v from 0 to 1, as their guider has it, between 1 and the most."""
    v = torch.linspace(0, 1, F)
    wanted = 2 * (v - torch.floor(v + 0.5)).abs() * (2.5 - 1) + 1
    assert posed.guided_by(2.5) == pytest.approx(wanted.tolist()) and posed.guided_by(2.5)[F // 2] == 2.5


def test_of_u_the_library_s_network_answers_alike(random_folder: Callable[..., Path]) -> None:
    """It tells a clip one number, which is all that SV3D_u is told: its own forward, untouched."""
    mine = built(random_folder("sv3d-u"))
    net = networks(Path(mine.source.path))["unet"]
    clips, seen = drawn(2, F, 8, 8, 8), drawn(2, 1, 32, seed=1)
    time = torch.tensor([0.3, -0.2])
    with torch.no_grad():
        theirs = net(clips, time, seen, torch.full((2, 1), 0.05))[0]
        rows = vector("u", 0.05, F).repeat(2, 1)
        found = mine.module(clips, time.repeat_interleave(F), seen, rows)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)


def test_angles_as_their_script_has_them() -> None:
    """The picture's own frame is at 0 and not a turn away, whatever its angle is rounded to; from above, and around as
    azimuths grow from the picture's."""
    polar, turn = angles(around(21), GIVEN.camera)
    wanted = np.deg2rad((np.linspace(0, 360, 22)[1:] % 360 - 0.0) % 360)
    assert turn.tolist() == pytest.approx(wanted.tolist(), abs=1e-4) and turn[-1] == 0
    assert polar.tolist() == pytest.approx([math.radians(90 - HEIGHT)] * 21, abs=1e-5)
    assert around(21).azimuth_deg[-1].abs() < 1e-2
    _, turn = angles(orbit([19.9999, 20.0001, 30.0]), orbit([20.0]))
    assert turn.tolist() == pytest.approx([0, 0, math.radians(10)], abs=1e-5)


def test_u_is_told_no_camera_and_p_each_frame_s_own(model: StableOrbit) -> None:
    high = told(model, around(height=40.0))["text"].rows["vector"]
    here = told(model)["text"].rows["vector"]
    assert torch.equal(high, here) is not model.posed
    assert ((here[0] - here[1]).abs().max() > 0.1) == model.posed
    card = StableOrbit.card(model.settings)
    assert card.level is not model.posed and not card.clip and card.whole and card.together == F
    assert [stand.azimuth_deg for stand in card.stands] == [120, 240, 360]


def test_the_gradient_of_every_frame(posed: StableOrbit) -> None:
    """The autoencoder is the one its picture goes through, its latents scaled here and not there."""
    vae = networks(Path(posed.source.path))["vae"].double()

    def straight(rgb: Tensor) -> Tensor:
        return vae.encode(2 * rgb.permute(0, 3, 1, 2) - 1).latent_dist.mode() * 0.18215

    check_encode(posed, straight)


def test_an_adapter_hears_each_frame_s_camera(posed: StableOrbit) -> None:
    added = posed.adapter(2)
    params = {name: torch.randn_like(value) * 0.1 for name, value in added.start().items()}
    z, t = drawn(F, 4, 8, 8), torch.full((F,), 400)
    rows, cameras = told(posed)["text"], drawn(F, 16, seed=3)
    first = added.apply(params, z, t, rows, cameras)
    moved = added.apply(params, z, t, rows, torch.cat([cameras[:2], cameras[2:] + 1]))
    assert (first - moved).abs().max() > 1e-4
    assert len(added.own.start()) >= 2 * 4 * 4  # both parts of both sides and the middle


def test_names_of_the_file(random_folder: Callable[..., Path]) -> None:
    """Spot values of what generative-models calls its modules: these are facts, not maps."""
    held = set(load_file(random_folder("sv3d-p")))
    assert {
        f"{NET}label_emb.0.0.weight",
        f"{NET}input_blocks.1.0.in_layers.2.weight",
        f"{NET}input_blocks.1.0.time_stack.in_layers.2.weight",
        f"{NET}input_blocks.1.0.time_stack.emb_layers.1.bias",
        f"{NET}input_blocks.1.0.time_mixer.mix_factor",
        f"{NET}input_blocks.1.1.time_stack.0.ff_in.net.0.proj.weight",
        f"{NET}input_blocks.1.1.time_stack.0.norm_in.weight",
        f"{NET}input_blocks.1.1.time_pos_embed.2.bias",
        f"{NET}input_blocks.1.1.time_mixer.mix_factor",
        f"{NET}input_blocks.2.0.op.weight",
        f"{NET}middle_block.1.time_stack.0.attn2.to_k.weight",
        f"{NET}middle_block.2.time_stack.out_layers.3.weight",
        f"{NET}output_blocks.1.1.conv.weight",
        "conditioner.embedders.0.open_clip.model.visual.proj",
        "conditioner.embedders.1.encoder.encoder.mid.attn_1.q.weight",
        "conditioner.embedders.1.encoder.quant_conv.weight",
    } <= held
    assert load_file(random_folder("sv3d-p"))[f"{NET}input_blocks.1.0.time_stack.in_layers.2.weight"].dim() == 5


def test_a_folder_as_conversions_have_it(posed: StableOrbit, tmp_path: Path) -> None:
    """Their class of the network has the tensors of the library's; what is told of no orbit is refused."""
    layout = LAYOUTS["sv3d-p"]
    unet, *rest = layout.parts
    named = replace(unet, named=("diffusers_sv3d", "SV3DUNetSpatioTemporalConditionModel"))
    folder = write_random(
        replace(layout, file="", pipeline="StableVideo3DDiffusionPipeline", parts=(named, *rest)),
        "tiny",
        tmp_path / "f",
    )
    mine = built(folder)
    held = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(value, held[name]) for name, value in mine.module.net.state_dict().items())
    assert told(mine)["text"].rows["vector"].shape == (F, 1280) and mine.clock.time.allclose(posed.clock.time)
    place = folder / "unet/config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "projection_class_embeddings_input_dim": 768}))
    with pytest.raises(ModelError, match="is told 768 waves beside the picture; no SV3D is: is it SVD"):
        built(folder)


def test_a_call_at_full_size_costs_what_the_library_s_does() -> None:
    """Operations on the meta device at 576 pixels; a time of its own for each frame is a thousandth of a percent."""
    net = TimedFrames(construct(LAYOUTS["sv3d-p"].part("unet"), "full"))
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.randn(1, 21, 8, 72, 72), torch.randn(21), torch.randn(1, 1, 1024), torch.randn(21, 1280))
    assert counter.get_total_flops() == pytest.approx(flops("sv3d-p", "unet", 72, 72, 21), rel=1e-4)


@pytest.mark.parametrize("which", ["u", "p"])
def test_a_full_size_file_by_its_header(which: str, tmp_path: Path) -> None:
    """What a file does not say follows from its shapes: the published configurations."""
    layout = LAYOUTS[f"sv3d-{which}"]
    shapes = {name: torch.empty(one.shape, device="meta") for name, one in in_whole(layout, "full", "fp16").items()}
    assert recognise(shapes) == "sv3d"
    file = Tensors(tmp_path, shapes, lambda names: {})
    whole = OrbitFile(tmp_path, file=file, kind="sv3d", prediction="v_prediction")
    for part in ("unet", "vae", "image_encoder"):
        found, wanted = whole.config(part), layout.part(part).full
        known = {key: value for key, value in found.items() if key in wanted and key != "sample_size"}
        assert known == {key: wanted[key] for key in known} and len(known) >= 6
        assert whole.has(part) and not whole.has("text_encoder")
    assert whole.config("unet")["num_attention_heads"] == [5, 10, 20, 20]
    assert sum(name.startswith(NET) for name in shapes) == 1428


def test_what_does_not_fit_is_one_line(random_folder: Callable[..., Path], tmp_path: Path) -> None:
    held = load_file(random_folder("sv3d-p"))
    name = f"{NET}input_blocks.1.1.time_stack.0.ff_in.net.2.weight"

    def with_(**changed: Tensor | None) -> Path:
        path = tmp_path / f"sv3d_p_{len(list(tmp_path.iterdir()))}.safetensors"
        save_file({key: value for key, value in (held | changed).items() if value is not None}, path)
        return path

    for value, said in ((None, "is missing"), (torch.zeros(2, 2), r"is \[2, 2\] and not")):
        with pytest.raises(ModelError, match=rf"1 of 424 tensors do not fit .*ff_in\.net\.2\.weight {said}"):
            built(with_(**{name: value}))
    with pytest.raises(ModelError, match=r"temporal_res_block\.9\.weight is not known"):
        built(with_(**{f"{NET}input_blocks.1.0.time_stack.9.weight": torch.zeros(1)}))
    tower = next(key for key in held if ".visual.ln_post.weight" in key)
    with pytest.raises(ModelError, match=r"image_encoder.*post_layernorm\.weight is missing"):
        told(built(with_(**{tower: None})))
    label = f"{NET}label_emb.0.0.weight"
    with pytest.raises(ModelError, match="a Stable Video Diffusion, which is read from a folder"):
        built(with_(**{label: torch.zeros(128, 768)}))
    with pytest.raises(ModelError, match="is an SV3D_p, not an SV3D_u; set variant: p"):
        built(random_folder("sv3d-p"), variant="u")
    with pytest.raises(ModelError, match=r"is a StableVideoDiffusionPipeline .*no model for guidance sv3d"):
        built(random_folder("svd"))
    mine = built(random_folder("sv3d-p"))
    with pytest.raises(InputError, match="sv3d: follows a picture and the prompt has none"):
        mine.condition(Prompt("unheard"), around(), frames(F))
    with pytest.raises(InputError, match="looks at clips of 3 frames, and 4 came"):
        mine.encode(torch.zeros(4, SIDE, SIDE, 3))
