# SPDX-License-Identifier: Apache-2.0
"""In which numbers a frozen network runs."""

from __future__ import annotations

import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix products in it are faster than in float32; elsewhere it would be emulated."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast and torch.backends.mkldnn.is_available() else torch.float32


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """One of DTYPES on a device."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return fast_dtype(device) if name == "auto" else named[name]
