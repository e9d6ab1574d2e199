# SPDX-License-Identifier: Apache-2.0
"""IP-Adapter files in a U-Net of diffusers answer as the paper's formula does, with every number at its attention."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamlab.core.errors import ModelError
from guidance.latent import ip_files
from tests.guidance.latent import old_names as old

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")

# Which numbers are whose, as published: two attentions a block down, three up, one in the middle, which comes last.
BLOCKS = {
    "down_blocks.0": (1, 3), "down_blocks.1": (5, 7), "down_blocks.2": (9, 11), "up_blocks.1": (13, 15, 17),
    "up_blocks.2": (19, 21, 23), "up_blocks.3": (25, 27, 29), "mid_block": (31,),
}  # fmt: skip
PLACES = {
    number: f"{block}.attentions.{k}.transformer_blocks.0.attn2"
    for block, numbers in BLOCKS.items()
    for k, number in enumerate(numbers)
}
WIDE, EMBED = 64, 48  # of the text's rows, of the picture's embedding


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return old.unet("sd1")


def heads(net: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {
        f"{number}.to_{part}_ip.weight": torch.randn(
            net.get_submodule(place).to_k.weight.shape, generator=generator
        ) * 0.2
        for number, place in PLACES.items()
        for part in "kv"
    }  # fmt: skip


def projection(kind: str) -> dict[str, Tensor]:
    if kind == "plus":
        return old.resampler("", EMBED, WIDE, 5)
    generator = torch.Generator().manual_seed(12)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    norm = {"weight": drawn(WIDE) + 1, "bias": drawn(WIDE)}
    if kind == "base":
        found = {"proj.weight": drawn(4 * WIDE, EMBED), "proj.bias": drawn(4 * WIDE)}
        return found | {f"norm.{name}": value for name, value in norm.items()}
    found = {"proj.0.weight": drawn(EMBED, EMBED), "proj.0.bias": drawn(EMBED)}
    found |= {"proj.2.weight": drawn(WIDE, EMBED), "proj.2.bias": drawn(WIDE)}
    return found | {f"proj.3.{name}": value for name, value in norm.items()}


def tokens(kind: str, p: dict[str, Tensor], seen: Tensor) -> Tensor:
    """The picture's tokens by the authors' nets, written out with the file's own names."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])

    if kind == "base":
        return norm(F.linear(seen[:, 0], p["proj.weight"], p["proj.bias"]).reshape(len(seen), 4, WIDE), "norm")
    x = seen[:, 0]
    if kind == "full":
        x = F.gelu(F.linear(x, p["proj.0.weight"], p["proj.0.bias"]))
        return norm(F.linear(x, p["proj.2.weight"], p["proj.2.bias"]), "proj.3")
    x = F.linear(x, p["proj_in.weight"], p["proj_in.bias"])
    latents = p["latents"].expand(len(seen), -1, -1)
    for k in range(4):
        at, net = f"layers.{k}.0", f"layers.{k}.1"
        inner, own = norm(x, f"{at}.norm1"), norm(latents, f"{at}.norm2")
        query = own @ p[f"{at}.to_q.weight"].T
        key, value = (torch.cat([inner, own], 1) @ p[f"{at}.to_kv.weight"].T).chunk(2, -1)
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)  # one head of 64
        latents = latents + weights @ value @ p[f"{at}.to_out.weight"].T
        latents = latents + F.gelu(norm(latents, f"{net}.0") @ p[f"{net}.1.weight"].T) @ p[f"{net}.3.weight"].T
    return norm(F.linear(latents, p["proj_out.weight"], p["proj_out.bias"]), "norm_out")


class Straight:
    """attn(q, k, v) + scale attn(q, k_ip, v_ip), before the output's layer."""

    def __init__(self, key: Tensor, value: Tensor, picture: Tensor, scale: float) -> None:
        self.key, self.value, self.picture, self.scale = key, value, picture, scale

    def __call__(self, attn: nn.Module, x: Tensor, encoder_hidden_states: Tensor, **kwargs: object) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        def mixed(key: Tensor, value: Tensor) -> Tensor:
            q, k, v = heads(attn.to_q(x)), heads(key), heads(value)
            return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)

        text = mixed(attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        return attn.to_out[0](text + self.scale * mixed(self.picture @ self.key.T, self.picture @ self.value.T))


def written(path: Path, kind: str, net: nn.Module, **changes: Tensor | None) -> Path:
    from safetensors.torch import save_file

    state = old.put("image_proj.", projection(kind)) | old.put("ip_adapter.", heads(net)) | changes
    save_file({name: value.clone() for name, value in state.items() if value is not None}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "shape"), [("base", (2, 1, EMBED)), ("plus", (2, 1, 7, EMBED)), ("full", (2, 1, 257, EMBED))]
)
def test_a_file_in_a_unet_against_the_formula(
    kind: str, shape: tuple[int, ...], unet: nn.Module, tmp_path: Path
) -> None:
    file = ip_files.read(written(tmp_path / "ip.safetensors", kind, unet))
    assert (file.kind, file.width) == (kind, EMBED)
    adapted = ip_files.attach(copy.deepcopy(unet), file, 0.6)
    seen = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x, t, rows = torch.randn(2, 4, 16, 16), torch.tensor([5, 700]), torch.randn(2, 6, WIDE)
    said = adapted(x, t, rows, added_cond_kwargs={"image_embeds": [seen]})[0]
    straight, processors = copy.deepcopy(unet), dict(unet.attn_processors)
    picture = tokens(kind, projection(kind), seen)
    for number, place in PLACES.items():
        pair = [heads(unet)[f"{number}.to_{part}_ip.weight"] for part in "kv"]
        processors[f"{place}.processor"] = Straight(*pair, picture, 0.6)
    straight.set_attn_processor(processors)
    torch.testing.assert_close(said, straight(x, t, rows)[0], rtol=1e-4, atol=1e-4)
    assert (said - unet(x, t, rows)[0]).abs().max() > 0.05
    assert not any(value.requires_grad for value in adapted.parameters())


def test_the_numbers_of_every_attention(unet: nn.Module) -> None:
    by_name = {f"{place}.to_k_ip.weight": torch.tensor([number]) for number, place in PLACES.items()}
    found = ip_files.numbered(unet, by_name, "x")
    assert {name: int(value) for name, value in found.items()} == {f"{n}.to_k_ip.weight": n for n in PLACES}
    with pytest.raises(ModelError, match="belongs to no cross-attention"):
        ip_files.numbered(
            unet, {"down_blocks.3.attentions.0.transformer_blocks.0.attn2.to_k_ip.weight": torch.ones(1)}, "x"
        )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ip_adapter.13.to_v_ip.weight": None}, r"1 of 32 tensors do not fit \(13\.to_v_ip\.weight is missing\)"),
        ({"ip_adapter.33.to_v_ip.weight": torch.ones(1)}, r"1 of 32 .*33\.to_v_ip\.weight is not known"),
        ({"ip_adapter.2.to_k_ip.weight": torch.ones(1)}, r"1 of 32 .*2\.to_k_ip\.weight is not known"),
        ({"ip_adapter.1.to_k_ip.weight": torch.ones(32, 96)}, r"\[32, 96\] and not \[32, 64\]"),
        ({"image_proj.norm.bias": None}, r"image_proj is not whole .*norm\.bias"),
        ({"image_proj.extra": torch.ones(1)}, r"image_proj is not whole .*extra"),
        ({"image_proj.proj.weight": None}, "none of IP-Adapter's base, plus and full-face"),
        ({"lora.1": torch.ones(1)}, r"1 of its 37 tensors are of something else \(lora\.1\)"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(
    change: dict[str, Tensor | None], says: str, unet: nn.Module, tmp_path: Path
) -> None:
    path = written(tmp_path / "bad.safetensors", "base", unet, **change)
    with pytest.raises(ModelError, match=says) as error:
        ip_files.attach(copy.deepcopy(unet), ip_files.read(path))
    assert "\n" not in str(error.value)


def test_the_pickle_of_two_groups_only_where_the_user_says_so(unet: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "ip-adapter_sd15.bin"
    torch.save({"image_proj": projection("base"), "ip_adapter": heads(unet)}, path)
    with pytest.raises(ModelError, match="is a pickle"):
        ip_files.read(path)
    file = ip_files.read(path, allow_pickle=True)
    flat = ip_files.read(written(tmp_path / "flat.safetensors", "base", unet))
    torch.testing.assert_close(dict(file.projection), dict(flat.projection), rtol=0, atol=0)
    torch.testing.assert_close(dict(file.heads), dict(flat.heads), rtol=0, atol=0)


def test_no_picture_is_zeros_for_the_base_and_an_all_zero_picture_for_the_rest() -> None:
    """As diffusers' pipelines make both halves."""
    encoder = old.vision("gelu")
    pixels = torch.randn(2, 3, 28, 28)
    seen, null = ip_files.embeds(encoder, ip_files.BASE, pixels)
    torch.testing.assert_close(seen, encoder(pixels).image_embeds[:, None])
    assert seen.shape == (2, 1, 60) and not null.any()
    for kind in (ip_files.PLUS, ip_files.FULL):
        seen, null = ip_files.embeds(encoder, kind, pixels)
        for given, said in ((pixels, seen), (torch.zeros_like(pixels), null)):
            hidden = encoder(given, output_hidden_states=True).hidden_states
            torch.testing.assert_close(said, hidden[1][:, None])  # of two layers: embedding, first, second
        assert seen.shape == (2, 1, 5, 64) and null.abs().max() > 0.01
