# SPDX-License-Identifier: Apache-2.0
"""ImageDream: the picture as a fifth, clean view without a camera and as words; nothing of it in the null."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamlab.core.cameras import orbit, turntable
from dreamlab.core.errors import InputError, ModelError
from dreamlab.core.types import Condition, Prompt, Reference
from guidance.imagedream import ImageDream
from guidance.latent.joint import told
from tests.guidance.latent import old_names
from tests.guidance.test_mvdream import frames, latents, straight

pytest.importorskip("diffusers", reason="diffusers is not installed (extra `models`)")
pytest.importorskip("transformers", reason="transformers is not installed (extra `models`)")


def reference(azimuth: float = 0.0, size: int = 28) -> Reference:
    generator = torch.Generator().manual_seed(5)
    rgb = torch.randint(256, (size, size, 3), generator=generator) / 255
    alpha = torch.rand(size, size, 1, generator=generator)
    return Reference(rgb, (alpha > 0.4).float(), orbit([azimuth], 0.0))


def imagedream(place: Path, **settings: object) -> ImageDream:
    chosen = {"model": str(place), "dtype": "float32", "size": 64, **settings}
    return ImageDream.build(ImageDream.Settings(**chosen), None).to("cpu")


def asked(model: ImageDream, given: Reference, count: int = 4, gray: float = 0.5) -> dict[str, Condition]:
    prompt = Prompt("a red mushroom", "ugly", given)
    return dict(model.condition(prompt, turntable(count), frames(count, gray)))


@pytest.fixture(scope="module")
def folder(random_folder: Callable[..., Path]) -> Path:
    return random_folder("imagedream")


@pytest.fixture(scope="module")
def model(folder: Path) -> ImageDream:
    return imagedream(folder)


@pytest.fixture(scope="module")
def given() -> Reference:
    return reference()


def spied(model: ImageDream, z: Tensor, t: Tensor, told_: Condition) -> tuple[Tensor, dict[str, Tensor]]:
    """The answer, and what the network was given for it."""
    seen: list[dict[str, Tensor]] = []

    def keep(_: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        image = kwargs["added_cond_kwargs"]["image_embeds"][0]
        names = dict(zip(("z", "t", "text"), args, strict=True))
        seen.append({**names, "camera": kwargs["class_labels"], "image": image})

    handle = model.module.register_forward_pre_hook(keep, with_kwargs=True)
    said = model.predict(z, t, told_)
    handle.remove()
    (inputs,) = seen
    return said, inputs


def test_the_fifth_row_is_the_picture_without_noise_and_camera(model: ImageDream, given: Reference) -> None:
    z, t = latents(8), torch.tensor([700] * 4 + [200] * 4)
    before, said = z.clone(), asked(model, given, 8)["text"]
    eps, seen = spied(model, z, t, said)
    assert torch.equal(z, before)  # the original overwrites its caller's latents
    assert eps.shape == z.shape and seen["z"].shape == (10, 4, 8, 8)
    views, fifth = [0, 1, 2, 3, 5, 6, 7, 8], [4, 9]
    assert torch.equal(seen["z"][views], z) and torch.equal(seen["camera"][views], told(turntable(8)))
    assert not seen["camera"][fifth].any()
    over = given.rgb * given.alpha + 0.5 * (1 - given.alpha)
    latent = model.encode(over[None])
    torch.testing.assert_close(seen["z"][fifth], latent.expand(2, -1, -1, -1), rtol=1e-5, atol=1e-5)
    assert seen["t"].tolist() == [700] * 5 + [200] * 5
    expected = straight(model.module, 5)(
        seen["z"],
        seen["t"],
        seen["text"],
        class_labels=seen["camera"],
        added_cond_kwargs={"image_embeds": [seen["image"]]},
    )[0]
    torch.testing.assert_close(eps, expected[views], rtol=1e-4, atol=1e-4)


def test_nothing_of_the_picture_in_the_null_but_every_camera(model: ImageDream, given: Reference) -> None:
    said = asked(model, given)
    z, t = latents(4), torch.full((4,), 500)
    for name in ("null", "negative"):
        _, seen = spied(model, z, t, said[name])
        assert not seen["image"].any() and not seen["z"][4].any()
        assert torch.equal(seen["camera"][:4], told(turntable(4))) and not seen["camera"][4].any()
    assert torch.equal(said["null"].rows["text"], said["negative"].rows["text"])  # as its authors: null is the negative
    assert (model.predict(z, t, said["text"]) - model.predict(z, t, said["null"])).abs().max() > 0.01


def test_words_of_the_picture_are_the_encoder_s_last_layer_but_one(folder: Path, model: ImageDream) -> None:
    """By transformers' own class and preparation of pictures."""
    from transformers import CLIPImageProcessorPil, CLIPVisionModel

    encoder = CLIPVisionModel.from_pretrained(folder / "image_encoder").eval()
    side = encoder.config.image_size
    given = reference(size=side)  # nothing to resize, for PIL rounds to bytes in between
    shown = (255 * given.rgb * given.alpha).round().to(torch.uint8).permute(2, 0, 1)
    size = {"height": side, "width": side}
    pixels = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=size)(shown.numpy(), return_tensors="pt")
    # Of two layers: embedding, first, second.
    wanted = encoder(pixels.pixel_values, output_hidden_states=True).hidden_states[1]
    rows = asked(model, given, gray=0.0)["text"].rows["image"]
    assert rows.shape == (4, 1, (side // encoder.config.patch_size) ** 2 + 1, 32)
    torch.testing.assert_close(rows[0], wanted, rtol=1e-4, atol=1e-4)


def test_a_picture_is_looked_at_once_before_each_gray(folder: Path, given: Reference) -> None:
    model = imagedream(folder)
    dark, middle = (asked(model, given, gray=gray)["text"].rows for gray in (0.0, 0.5))
    again = asked(model, given, gray=0.1)["text"].rows
    assert torch.equal(dark["first"], again["first"]) and not torch.equal(dark["first"], middle["first"])
    assert not torch.equal(dark["image"], middle["image"])
    assert model.seen_pictures.times_looked == 1


def test_the_picture_s_side_counts_as_the_front(model: ImageDream) -> None:
    prompt = Prompt("", image=reference(azimuth=90.0))
    rows = model.condition(prompt, orbit([90.0, 180.0, 270.0, 0.0], 0.0), frames(4))["text"].rows["camera"]
    torch.testing.assert_close(rows, told(orbit([0.0, 90.0, 180.0, 270.0], 0.0)), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows[0].reshape(4, 4)[:3, 3], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_as_words_alone(folder: Path, given: Reference) -> None:
    model = imagedream(folder, fifth=False)
    z, t, said = latents(4), torch.full((4,), 500), asked(model, given)["text"]
    eps, seen = spied(model, z, t, said)
    assert seen["z"].shape == (4, 4, 8, 8) and torch.equal(seen["z"], z)
    expected = straight(model.module, 4)(
        z, t, seen["text"], class_labels=seen["camera"], added_cond_kwargs={"image_embeds": [seen["image"]]}
    )[0]
    torch.testing.assert_close(eps, expected, rtol=1e-4, atol=1e-4)


def test_the_original_checkpoint(tmp_path: Path, given: Reference) -> None:
    from guidance.latent import ip_files

    state, nets = old_names.whole("imagedream")
    path = tmp_path / "sd-v2.1-base-4view-ipmv.pt"
    torch.save(state, path)
    mine = imagedream(path, legacy=path.name)
    with pytest.raises(ModelError, match="is a imagedream model; this family takes mvdream"):
        from guidance.mvdream import MultiViewDream

        MultiViewDream.build(MultiViewDream.Settings(model=str(path), legacy=path.name), None)
    rows = {"text": torch.randn(4, 7, 64), "camera": told(turntable(4)), "image": torch.randn(4, 1, 5, 64)}
    rows["first"] = torch.randn(1, 4, 8, 8).expand(4, -1, -1, -1)
    z, t = latents(4), torch.full((4,), 321)
    said = mine.predict(z, t, Condition(rows, {"group": torch.empty(4)}))
    prompted = old_names.image_prompt(nets["unet"])
    own = {k.removeprefix("image_embed."): v for k, v in prompted.items() if k.startswith("image_embed.")}
    order = [f"down_blocks.{b}.attentions.{k}" for b in range(3) for k in range(2)]
    order += [f"up_blocks.{b}.attentions.{k}" for b in (1, 2, 3) for k in range(3)] + ["mid_block.attentions.0"]
    places = old_names.old_unet({f"{name}.x.weight": torch.tensor([i]) for i, name in enumerate(order)})
    heads = {}
    for old, index in places.items():
        for part in "kv":
            name = old.replace(".x.", f".transformer_blocks.0.attn2.to_{part}_ip.")
            heads[f"{2 * int(index) + 1}.to_{part}_ip.weight"] = prompted[name]
    net = ip_files.attach(nets["unet"], ip_files.IpFile("the reference", own, heads))
    five = {name: torch.cat([row, row[:1]]) for name, row in rows.items()}
    five["camera"][4] = 0
    expected = straight(net, 5)(
        torch.cat([z, rows["first"][:1]]), torch.full((5,), 321), five["text"], class_labels=five["camera"],
        added_cond_kwargs={"image_embeds": [five["image"]]},
    )[0][:4]  # fmt: skip
    torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-4)


def test_without_a_picture_or_a_place_for_one_is_one_line(
    model: ImageDream, random_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the prompt has no picture; give one with --image"):
        model.condition(Prompt("a red mushroom"), turntable(4), frames(4))
    other = Path(shutil.copytree(random_folder("mvdream"), tmp_path / "mv"))
    with pytest.raises(ModelError, match="takes no picture, so it is not ImageDream's"):
        imagedream(other)
    card = ImageDream.card(ImageDream.Settings())
    assert card.picture and card.together == 4
    assert replace(card, picture=False) != card
