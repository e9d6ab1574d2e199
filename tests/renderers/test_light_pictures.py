# SPDX-License-Identifier: Apache-2.0
"""The bare white surface under the scene's light, as a control network is shown it."""

from __future__ import annotations

import pytest
import torch

from dreamlab.core.cameras import turntable
from dreamlab.core.errors import RecipeError
from dreamlab.core.safemath import linear_to_srgb
from dreamlab.core.schedules import Progress
from dreamlab.core.types import Training
from dreamlab.recipe import load
from dreamlab.recipe.checks import check
from dreamlab.recipe.tables import TABLES
from renderers.mesh import BARE, TexturedMesh


def scene(**settings: object) -> TexturedMesh:
    chosen = {"shading": "pbr", "light_pictures": True, "faces": 500, "texture": 16, **settings}
    return TexturedMesh(TexturedMesh.Settings(**chosen), torch.Generator().manual_seed(0))


def test_they_are_six_materials_of_white_whatever_the_scene_s_own_is() -> None:
    """In a white furnace a rough white surface that is no metal reflects all the light, whichever way it faces; the
    colour of the scene's texture is not in it."""
    torch.manual_seed(0)
    made = scene(lights=("white",), specular=0.0)
    training = Training(Progress(0, 10), torch.Generator().manual_seed(0))
    frames = made.render(turntable(2), 32, torch.zeros(2, 3), training)
    lights = frames.extra["lights"]
    assert lights.shape == (2, 32, 32, 18) and not lights.requires_grad and len(BARE) == 6
    inside = frames.alpha[..., 0] > 0.99
    chalk = lights[..., 6:9][inside]  # (metallic, roughness) = (0, 1)
    torch.testing.assert_close(chalk, linear_to_srgb(torch.ones_like(chalk)), atol=0.03, rtol=0)
    assert lights[frames.alpha[..., 0] == 0].abs().max() == 0
    with torch.no_grad():
        made.params["texture"][..., :3] = -5.0
    again = made.render(turntable(2), 32, torch.zeros(2, 3), training)
    torch.testing.assert_close(again.extra["lights"], lights)
    assert not torch.allclose(again.rgb, frames.rgb, atol=0.05)


def test_rough_and_smooth_metal_differ_under_a_light_with_structure() -> None:
    made = scene(lights=("studio",))
    training = Training(Progress(0, 10), torch.Generator().manual_seed(0))
    frames = made.render(turntable(1), 64, torch.zeros(1, 3), training)
    lights = frames.extra["lights"][frames.alpha[..., 0] > 0.99]
    mirror, rough = lights[..., 9:12], lights[..., 15:18]
    assert mirror.std() > 1.2 * rough.std()


def test_flat_shading_has_none() -> None:
    recipe = """
prompt: a red ball
stages: [{name: one, scene: {kind: mesh, light_pictures: true}, terms: [{guidance: oracle, system: sds}]}]
"""
    with pytest.raises(RecipeError, match="there is no light in flat shading"):
        check(load(recipe, TABLES))
