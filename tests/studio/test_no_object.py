# SPDX-License-Identifier: Apache-2.0
"""Fault 33: a picture in which no object is found is refused in one line before anything is queued, and a mask that
somebody draws is then what counts."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from dreamlab.studio.studio import Studio

SIZE = (120, 120)
DISC = (30, 30, 90, 90)
PICTURES = {
    "blank": (Image.new("RGB", SIZE, "white"), "no object found"),
    "transparent": (Image.new("RGBA", SIZE, (200, 30, 30, 0)), "no object found"),
    "busy": (Image.effect_noise(SIZE, 200).convert("RGB"), "its background is not plain"),
}


def sent(client: TestClient, picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return str(client.post("/v1/uploads", content=buffer.getvalue()).json()["id"])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_without_an_object_makes_no_job_and_a_mask_is_the_way_out(
    client: TestClient, studio: Studio, name: str
) -> None:
    picture, said = PICTURES[name]
    red = picture.copy()
    ImageDraw.Draw(red).ellipse(DISC, fill=(220, 30, 30) + ((0,) if name == "transparent" else ()))
    image = sent(client, picture if name == "blank" else red)
    read = client.post(f"/v1/uploads/{image}/read")
    asked = {"prompt": "a red ball", "recipe": "image", "image": image}
    made = client.post("/v1/jobs", json=asked)
    for refused in (read, made):
        error = refused.json()["error"]
        assert refused.status_code == 422 and said in error["message"], error
        assert len(error["message"]) < 200 and "\n" not in error["message"] and str(studio.root) not in str(error)
    assert read.json()["error"]["code"] == "no_object" and "mask" in read.json()["error"]["hint"]
    assert [field["loc"] for field in made.json()["error"]["fields"]] == ["image"]
    assert sum(studio.queue.counts().values()) == 0 and not list(studio.root.glob("*/recipe.yaml"))
    drawn = Image.new("L", SIZE)
    ImageDraw.Draw(drawn).ellipse(DISC, fill=255)
    mask = sent(client, drawn)
    assert client.post(f"/v1/uploads/{image}/read", json={"mask": mask}).json()["kinds"]
    assert client.post("/v1/jobs", json=asked | {"mask": mask}).status_code == 202


def test_a_mask_must_be_a_picture_of_ones_own(client: TestClient) -> None:
    image = sent(client, PICTURES["busy"][0])
    assert client.post(f"/v1/uploads/{image}/read", json={"mask": "0" * 64}).status_code == 404
    assert client.post(f"/v1/uploads/{image}/read", json={"mask": 3}).status_code == 422
