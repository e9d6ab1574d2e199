# SPDX-License-Identifier: Apache-2.0
"""Our map of the original repositories' names against diffusers' own converters, tensor by tensor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamlab.core.errors import ModelError
from guidance.latent import ldm_names
from tests.guidance.latent import old_names as old

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["sd1", "sd2", "zero123", "sdxl", "mvdream"])
def test_a_unet_against_the_converter(kind: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    net = old.unet(kind)
    state = old.old_unet(net.state_dict())
    equal(ldm_names.unet(state), net.state_dict())
    renamed = {name.replace("camera_embed.", "label_emb.0."): value for name, value in state.items()}
    judge = convert_ldm_unet_checkpoint(old.put(ldm_names.UNET, renamed), dict(net.config))
    equal(ldm_names.unet(state), judge)


def test_an_autoencoder_against_the_converter() -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    net = old.vae()
    state = old.old_vae(net.state_dict())
    found = ldm_names.vae(state | {"loss.logvar": torch.zeros(())})
    equal(found, net.state_dict())
    equal(found, convert_ldm_vae_checkpoint(old.put("first_stage_model.", state), dict(net.config)))


def test_sd_2_s_text_tower_loses_its_last_layer() -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    net = old.text(23)
    state = old.old_text(net, extra=True)
    assert len({name.split(".")[2] for name in state if name.startswith("transformer.")}) == 24
    found = ldm_names.open_clip_text(state, drop=1)
    equal(found, net.state_dict())
    judge = convert_open_clip_checkpoint(net, old.put("cond_stage_model.model.", state))
    wanted = {name.removeprefix("text_model."): value for name, value in judge.items()}
    assert wanted.keys() - found.keys() <= {"logit_scale", "text_projection.weight"}
    equal(found, {name: wanted[name] for name in found})


def test_sdxl_s_second_text_tower_against_the_converter() -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    net = old.text(2, 96, projected=True)
    state = old.old_text(net)
    equal(ldm_names.projected_text(state), net.state_dict())
    judge = convert_open_clip_checkpoint(
        net, old.put("conditioner.embedders.1.model.", state), "conditioner.embedders.1.model."
    )
    equal(ldm_names.projected_text(state), judge)


def test_a_controlnet_against_the_converter() -> None:
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    net = old.controlnet(22)
    state = old.old_controlnet(net)
    judge = convert_controlnet_checkpoint(old.put("control_model.", state), dict(net.config))
    for given in (state, old.put("control_model.", state) | {"model.diffusion_model.out.0.weight": torch.zeros(1)}):
        equal(ldm_names.controlnet(given), net.state_dict())
        equal(ldm_names.controlnet(given), judge)


def test_a_picture_tower_answers_as_open_ai_s_formula() -> None:
    """The original forward written out with the original names, on one head of attention."""
    import torch.nn.functional as F

    net = old.vision()
    state = old.old_vision(net)
    equal(ldm_names.clip_vision(state), net.state_dict())
    x = torch.randn(2, 3, 28, 28)

    def norm(h: Tensor, name: str) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    h = F.conv2d(x, state["conv1.weight"], stride=14).flatten(2).mT
    h = torch.cat([state["class_embedding"].expand(2, 1, -1), h], 1) + state["positional_embedding"]
    h = norm(h, "ln_pre")
    for k in range(2):
        at = f"transformer.resblocks.{k}"
        q, k_, v = F.linear(
            norm(h, f"{at}.ln_1"), state[f"{at}.attn.in_proj_weight"], state[f"{at}.attn.in_proj_bias"]
        ).chunk(3, -1)
        mixed = (q @ k_.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        h = h + F.linear(mixed, state[f"{at}.attn.out_proj.weight"], state[f"{at}.attn.out_proj.bias"])
        inner = F.linear(norm(h, f"{at}.ln_2"), state[f"{at}.mlp.c_fc.weight"], state[f"{at}.mlp.c_fc.bias"])
        inner = inner * torch.sigmoid(1.702 * inner)
        h = h + F.linear(inner, state[f"{at}.mlp.c_proj.weight"], state[f"{at}.mlp.c_proj.bias"])
    torch.testing.assert_close(net(x).image_embeds, norm(h[:, 0], "ln_post") @ state["proj"], rtol=1e-4, atol=1e-5)


def test_averages_are_chosen_whole_or_not_at_all() -> None:
    state = old.put(ldm_names.UNET, old.old_unet(old.unet("sd1").state_dict()))
    ema = {"model_ema." + name.removeprefix("model.").replace(".", ""): value + 1 for name, value in state.items()}
    equal(ldm_names.averaged(state | ema), {name.removeprefix(ldm_names.UNET): v + 1 for name, v in state.items()})
    ema.pop("model_ema.diffusion_modelout2bias")
    with pytest.raises(ModelError, match="no moving averages for 1 of"):
        ldm_names.averaged(state | ema)


def test_whatever_does_not_fit_is_counted_and_named() -> None:
    wanted = {f"layer{k}.weight": (2, 3) for k in range(6)}
    ldm_names.check(wanted, wanted, "x")
    found = {"layer0.weight": (3, 2), "layer1.weight": (2, 3), "other": (1,)}
    with pytest.raises(ModelError) as error:
        ldm_names.check(found, wanted, "model.ckpt (unet)")
    said = str(error.value)
    assert said.startswith("model.ckpt (unet): 6 of 6 tensors do not fit (layer2.weight is missing;")
    assert "\n" not in said
    with pytest.raises(ModelError, match=r"1 of 1 tensors do not fit \(a is \[3, 2\] and not \[2, 3\]\)"):
        ldm_names.check({"a": (3, 2)}, {"a": (2, 3)}, "x")
    with pytest.raises(ModelError, match="b is not known"):
        ldm_names.check({"a": (3,), "b": (2,)}, {"a": (3,)}, "x")
