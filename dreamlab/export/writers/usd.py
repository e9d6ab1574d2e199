# SPDX-License-Identifier: Apache-2.0
"""USDZ without USD's library: a layer in its text form and the textures, in a package
(https://openusd.org/release/spec_usdz.html): a ZIP archive without compression whose files begin at multiples of 64
bytes, the layer first. The material is a UsdPreviewSurface (https://openusd.org/release/spec_usdpreviewsurface.html).

Colours of vertices are painted into a texture, because viewers on phones show nothing else. A moving asset has its
points, and the normals that go with them, at each time.
"""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import torch
from torch import Tensor

from dreamlab.core.types import Mesh, Textures, Track
from dreamlab.export.painted import painted
from dreamlab.export.png import png_bytes
from dreamlab.export.product import Files, Product
from dreamlab.export.provenance import KEY, one_line
from dreamlab.export.rig import SECONDS, normals_over, track_of
from dreamlab.export.writers.maps import orm

_ALIGNED = 64
_RATE = 24  # time codes a second


def usdz(made: Product) -> Files:
    made = painted(made)
    textures = made.mesh.textures
    assert textures is not None
    pictures = {"base_color": textures.base, "occlusion_roughness_metallic": orm(textures)}
    pictures |= {} if textures.normal is None else {"normal": textures.normal}
    packed = {"model.usda": layer(made).encode()}
    packed |= {f"textures/{kind}.png": png_bytes(picture, made.origin) for kind, picture in pictures.items()}
    return {"model.usdz": package(packed)}


def package(files: Files) -> bytes:
    """The archive. Padding lies in a field of the local header that no reader knows."""
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)  # of 1980, so that the same asset makes the same file
            spare = -(kept.tell() + 30 + len(name.encode()) + 4) % _ALIGNED
            entry.extra = np.array([0x1986, spare], "<u2").tobytes() + bytes(spare)
            archive.writestr(entry, data)
    return kept.getvalue()


def layer(made: Product) -> str:
    """The text of a scene with one mesh and its material."""
    name = made.name.replace("-", "_")
    name = name if name.isidentifier() and name.isascii() else f"model_{name}"
    track = None if made.motion is None else track_of(made.motion, made.mesh.vertices)
    head = ['    upAxis = "Y"', "    metersPerUnit = 1", f'    defaultPrim = "{name}"']
    if made.origin:
        # JSON without newlines is also a string of USD: both escape quotes and backslashes alike.
        head.append(f"    customLayerData = {{\n        string {KEY} = {json.dumps(one_line(made.origin))}\n    }}")
    if track is not None:
        end = _RATE * SECONDS * float(track.times[-1])
        head += [f"    timeCodesPerSecond = {_RATE}", "    startTimeCode = 0", f"    endTimeCode = {end:g}"]
    lines = ["#usda 1.0", "(", *head, ")", "", f'def Xform "{name}" (', '    kind = "component"', ")", "{"]
    lines += _mesh(made.mesh, track, f"/{name}/materials/surface")
    assert made.mesh.textures is not None
    lines += _material(made.mesh.textures, f"/{name}/materials/surface")
    return "\n".join([*lines, "}", ""])


def _mesh(mesh: Mesh, track: Track | None, material: str) -> list[str]:
    assert mesh.uv is not None
    up = mesh.uv * mesh.uv.new_tensor([1.0, -1.0]) + mesh.uv.new_tensor([0.0, 1.0])
    every = mesh.vertices if track is None else track.points.reshape(-1, 3)
    body = [
        'def Mesh "mesh" (',
        '    prepend apiSchemas = ["MaterialBindingAPI"]',
        ")",
        "{",
        f"    float3[] extent = {_tuples(torch.stack(every.aminmax(dim=0)))}",
        f"    int[] faceVertexCounts = [{', '.join(['3'] * len(mesh.faces))}]",
        f"    int[] faceVertexIndices = [{', '.join(map(str, mesh.faces.reshape(-1).tolist()))}]",
        f"    rel material:binding = <{material}>",
        f"    point3f[] points = {_tuples(mesh.vertices)}",
        f"    normal3f[] normals = {_tuples(mesh.normals)} (",
        '        interpolation = "vertex"',
        "    )",
        f"    texCoord2f[] primvars:st = {_tuples(up)} (",
        '        interpolation = "vertex"',
        "    )",
        '    uniform token subdivisionScheme = "none"',
    ]
    if track is not None:
        codes = (_RATE * SECONDS * track.times).tolist()
        body += _samples("point3f[] points", codes, track.points)
        body += _samples("normal3f[] normals", codes, normals_over(mesh, track.points))
    return _indented([*body, "}"])


def _samples(what: str, codes: list[float], values: Tensor) -> list[str]:
    rows = [f"        {code:g}: {_tuples(each)}," for code, each in zip(codes, values, strict=True)]
    return [f"    {what}.timeSamples = {{", *rows, "    }"]


def _tuples(rows: Tensor) -> str:
    one = f"({', '.join(['%.6g'] * rows.shape[1])})"
    return f"[{', '.join([one] * len(rows)) % tuple(rows.reshape(-1).tolist())}]"


def _material(textures: Textures, path: str) -> list[str]:
    """Occlusion, roughness and metallic are channels of one picture; normals are unpacked from [0, 1] by the reader."""
    base, packed, normal = (f"{path}/{kind}.outputs" for kind in ("base_color", "packed", "normal"))
    surface = [
        'uniform token info:id = "UsdPreviewSurface"',
        f"color3f inputs:diffuseColor.connect = <{base}:rgb>",
        f"float inputs:metallic.connect = <{packed}:b>",
        f"float inputs:roughness.connect = <{packed}:g>",
    ]
    surface += [] if textures.occlusion is None else [f"float inputs:occlusion.connect = <{packed}:r>"]
    surface += [] if textures.normal is None else [f"normal3f inputs:normal.connect = <{normal}:rgb>"]
    reader = [
        'uniform token info:id = "UsdPrimvarReader_float2"',
        'string inputs:varname = "st"',
        "float2 outputs:result",
    ]
    body = [f"token outputs:surface.connect = <{path}/preview.outputs:surface>"]
    body += _shader("preview", [*surface, "token outputs:surface"])
    body += _shader("coordinates", reader)
    body += _picture("base_color", "base_color", "sRGB", path, ["float3 outputs:rgb"])
    channels = [f"float outputs:{channel}" for channel in "rgb"]
    body += _picture("packed", "occlusion_roughness_metallic", "raw", path, channels)
    if textures.normal is not None:
        unpack = ["float4 inputs:scale = (2, 2, 2, 1)", "float4 inputs:bias = (-1, -1, -1, 0)", "float3 outputs:rgb"]
        body += _picture("normal", "normal", "raw", path, unpack)
    inner = ['def Material "surface"', "{", *_indented(body), "}"]
    return _indented(['def Scope "materials"', "{", *_indented(inner), "}"])


def _picture(name: str, stem: str, space: str, path: str, more: list[str]) -> list[str]:
    body = [
        'uniform token info:id = "UsdUVTexture"',
        f"asset inputs:file = @textures/{stem}.png@",
        f'token inputs:sourceColorSpace = "{space}"',
        f"float2 inputs:st.connect = <{path}/coordinates.outputs:result>",
        'token inputs:wrapS = "clamp"',
        'token inputs:wrapT = "clamp"',
    ]
    return _shader(name, body + more)


def _shader(name: str, body: list[str]) -> list[str]:
    return [f'def Shader "{name}"', "{", *_indented(body), "}"]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
