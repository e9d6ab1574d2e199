# SPDX-License-Identifier: Apache-2.0
"""One family of diffusion models per file; this table is all there is to registering one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamlab.core.table import Table

if TYPE_CHECKING:
    from guidance.shared.kind import GuidanceKind

GUIDANCE: Table[GuidanceKind] = Table(
    __name__,
    {
        "animatediff": "animatediff.AnimateDiff",
        "cogvideox": "cogvideox.CogVideoX",
        "controlnet": "controlnet.ControlNet",
        "controlnet-xl": "controlnet.ControlNetXL",
        "deepfloyd": "deepfloyd.DeepFloyd",
        "dreamt": "dreamt.Dreamt",
        "fewstep": "fewstep.FewStep",
        "fewstep-xl": "fewstep.FewStepXL",
        "flux": "flux.Flux",
        "imagedream": "imagedream.ImageDream",
        "ip-adapter": "ip_adapter.IPAdapter",
        "ip-adapter-xl": "ip_adapter.IPAdapterXL",
        "klein": "flux2.Klein",
        "modelscope": "modelscope.ModelScope",
        "mvdream": "mvdream.MultiViewDream",
        "oracle": "oracle.Oracle",
        "picture": "picture.Picture",
        "sd": "sd.StableDiffusion",
        "sd3": "sd3.StableDiffusion3",
        "sdxl": "sdxl.StableDiffusionXL",
        "sv3d": "sv3d.StableOrbit",
        "svd": "svd.StableVideo",
        "toybox": "toybox.prior.Toybox",
        "toybox-control": "toybox.roles.ToyboxControl",
        "toybox-novel": "toybox.roles.ToyboxNovel",
        "toybox-student": "toybox.student.ToyboxStudent",
        "toybox-video": "toybox.roles.ToyboxVideo",
        "toybox-views": "toybox.roles.ToyboxViews",
        "truth": "truth.Truth",
        "wan": "wan.Wan",
        "wan-i2v": "wan.WanPicture",
        "z-image": "zimage.ZImage",
        "zero123": "zero123.Zero123",
        "zero123plus": "zero123plus.Zero123Plus",
    },
)
