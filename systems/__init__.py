# SPDX-License-Identifier: Apache-2.0
"""One distillation rule per file; this table is all there is to registering one."""

from __future__ import annotations

from typing import Any

from systems.sds import SDS

SYSTEMS: dict[str, Any] = {
    "sds": SDS,
}
