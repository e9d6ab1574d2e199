# SPDX-License-Identifier: Apache-2.0
"""Files that users send, and what they are taken for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from urllib.parse import unquote

from dreamlab.core.files import Json
from dreamlab.core.settings import setting
from dreamlab.studio.answers import Refusal, Reply
from dreamlab.studio.api.base import RAW, Call, Endpoint
from dreamlab.studio.files import sent
from dreamlab.studio.uploads import Upload

IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}


@dataclass(frozen=True)
class ReadRequest:
    """What is known of a picture."""

    mask: str | None = setting(None, help="id of an upload, white where the object is")


def upload(call: Call) -> Reply:
    """Keep a file: PNG, JPEG, WebP; GLB, OBJ, PLY, STL. Its id is the SHA-256 of what it holds."""
    assert call.file is not None
    if not call.file.stat().st_size:
        raise Refusal(422, "empty", "the body is empty", "send the file itself as the body")
    made = call.studio.uploads.take(call.owner, call.file, unquote(call.headers.get("x-filename", "")))
    return Reply(told(made), 201)


def told(made: Upload) -> Json:
    return {name: value for name, value in asdict(made).items() if name != "suffix"} | {"url": f"/v1/uploads/{made.id}"}


def read_upload(call: Call) -> Reply:
    """What a picture is taken for, or what a mesh has."""
    uploads, identity = call.studio.uploads, call.path["id"]
    found = uploads.get(call.owner, identity)
    if found.kind == "mesh":
        return Reply({"kind": "mesh", "facts": found.facts})
    from dreamlab.studio.reading import taken_for

    drawn = call.given(ReadRequest).mask
    mask = None if drawn is None else uploads.path(call.owner, _picture(call, drawn).id)
    with uploads.reading():
        seen = taken_for(uploads.path(call.owner, identity), mask)
    return Reply(seen | {"mask_url": f"/v1/uploads/{identity}/mask"})


def mask(call: Call) -> Reply:
    """Where the object is in a picture: a PNG whose white is object."""
    from dreamlab.studio.reading import mask_of

    uploads = call.studio.uploads
    with uploads.reading():
        data = mask_of(uploads.path(call.owner, _picture(call, call.path["id"]).id))
    return Reply(data, kind="image/png", headers={"Cache-Control": "private, max-age=3600"})


def _picture(call: Call, identity: str) -> Upload:
    found = call.studio.uploads.get(call.owner, identity)
    if found.kind != "picture":
        raise Refusal(409, "conflict", "the upload is a mesh, not a picture", "ask for its facts instead")
    return found


def uploaded(call: Call) -> Reply:
    """The file as it was sent."""
    found = call.studio.uploads.get(call.owner, call.path["id"])
    folder = call.studio.uploads.folder(call.owner)
    kind = IMAGES.get(found.suffix, "application/octet-stream")
    return sent(folder, f"{found.id}{found.suffix}", call.headers, kind, found.id, f"upload{found.suffix}")


ENDPOINTS = (
    Endpoint("POST", "/v1/uploads", upload, "Send a picture or a mesh: its bytes as the body", body=RAW, status=201,
             refuses=(413, 415, 422, 429, 507)),
    Endpoint("POST", "/v1/uploads/{id}/read", read_upload, "What a file is taken for", body=ReadRequest, optional=True,
             refuses=(404, 409, 415, 422, 503)),
    Endpoint("GET", "/v1/uploads/{id}", uploaded, "A file that was sent", kind="*/*", refuses=(404,)),
    Endpoint("GET", "/v1/uploads/{id}/mask", mask, "Where the object of a picture is", kind="image/png",
             refuses=(404, 409, 422)),
)  # fmt: skip
