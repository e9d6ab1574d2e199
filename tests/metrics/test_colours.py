# SPDX-License-Identifier: Apache-2.0
"""Colours are read right where they are, under any exposure, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cuda_ext.reference import sdf as layout
from dreamlab.metrics import colours
from dreamlab.metrics.asset import Solid, equal_sphere, instances, judging_cameras, true_answer
from dreamlab.metrics.judge import views_of
from dreamlab.metrics.judge_net import SIZE
from dreamlab.toybox.caption import Caption, parse
from dreamlab.toybox.colours import COLOURS, Finish
from dreamlab.toybox.shapes import CATEGORIES

CAMERAS = judging_cameras()


def read(asset: Solid, caption: Caption, exposure: float = 1.0) -> list[colours.PartColour]:
    where = colours.stencil(caption.category, CAMERAS, SIZE, instances(caption.category, 5)[1:])
    rgb, alpha = views_of(asset, CAMERAS)
    return colours.read((rgb * exposure).clamp(max=1.0), alpha, caption, where)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (0.62796, 0.22486, 0.12585)),
        ((0.0, 0.0, 1.0), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_has_its_published_values(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    assert colours.oklab(torch.tensor(rgb)).tolist() == pytest.approx(lab, abs=2e-4)


def test_to_linear_inverts_the_srgb_curve() -> None:
    value = torch.linspace(0, 1, 11, dtype=torch.float64)
    curve = torch.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
    assert torch.allclose(colours.to_linear(curve), value, atol=1e-6)


@pytest.mark.parametrize("main", COLOURS)
def test_every_colour_is_read_on_a_mushroom_of_another_instance(main: str) -> None:
    names = list(COLOURS)
    second = names[(names.index(main) + 5) % len(names)]
    caption = Caption("mushroom", {"cap": Finish(main), "stem": Finish(second)})
    asset = true_answer(caption, instances("mushroom", 1)[0])
    for exposure in (0.85, 1.0, 1.1):
        assert [part.found for part in read(asset, caption, exposure)] == [main, second]


def test_small_and_hidden_parts_are_read() -> None:
    for prompt in (
        "a pink duck with a purple beak",
        "a yellow mug with a brown handle",
        "a pink ball with a cyan band",
    ):
        caption = parse(prompt)
        found = read(true_answer(caption, instances(caption.category, 1)[0]), caption)
        assert all(part.right for part in found), (prompt, [part.found for part in found])


def test_swapped_colours_are_wrong() -> None:
    caption = parse("a red mushroom with a white stem")
    swapped = parse("a white mushroom with a red stem")
    found = read(true_answer(swapped, instances("mushroom", 1)[0]), caption)
    assert [part.found for part in found] == ["white", "red"]
    assert not any(part.right for part in found)


def test_a_missing_handle_is_not_found_in_the_body_behind_it() -> None:
    caption = parse("a yellow mug with a brown handle")
    whole = true_answer(caption, instances("mug", 1)[0]).program
    rows = whole.rows.clone()
    rows[0, rows[0, :, layout.KIND] == layout.ARC, layout.KIND] = layout.NONE
    body, handle = read(Solid(replace(whole, rows=rows)), caption)
    assert body.right and handle.found != "brown" and not handle.right


def test_a_sphere_has_the_first_colour_at_most() -> None:
    caption = parse("a red duck with a blue beak")
    main, second = read(equal_sphere(caption, instances("duck", 1)[0]), caption)
    assert main.right and not second.right


def test_parts_that_follow_a_colour_count_as_the_part() -> None:
    assert colours.group(CATEGORIES["chair"], "seat") == [0, 2]
