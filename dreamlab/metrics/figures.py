# SPDX-License-Identifier: Apache-2.0
"""Figures as benches and scoreboards report them: a table on stdout, and a JSON file of checks and the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Check:
    """One measured claim: `value` must be on the `better` side of `floor`."""

    name: str
    value: float
    unit: str
    floor: float | None
    better: str = "higher"
    note: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        if self.floor is None:
            return True
        return self.value >= self.floor if self.better == "higher" else self.value <= self.floor


def machine() -> dict[str, object]:
    from cuda_ext import build

    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "isa": build.machine_isa(),
        "compiler": (build.compiler() or ("", "none"))[1],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def report(checks: list[Check], file: Path | None) -> bool:
    """Print a table, write the JSON; True when every floor was met."""
    for check in checks:
        floor = "" if check.floor is None else f"{'>=' if check.better == 'higher' else '<='} {check.floor:g}"
        mark = "" if check.floor is None else ("ok" if check.met else "MISSED")
        clock = check.details.get("clock", "")
        print(f"{check.name:<42}{check.value:>10.2f} {check.unit:<4}{floor:<10}{mark:<8}{clock:<7}{check.note}")
    if file is not None:
        content = {"checks": [asdict(check) for check in checks], "machine": machine()}
        file.write_text(json.dumps(content, indent=1) + "\n")
    return all(check.met for check in checks)
