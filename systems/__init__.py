# SPDX-License-Identifier: Apache-2.0
"""One distillation rule per file; this table is all there is to registering one."""

from __future__ import annotations

from typing import Any

from systems.asd import ASD
from systems.balanced import Balanced
from systems.cds import CDS
from systems.csd import CSD
from systems.csm import CSM
from systems.ism import ISM
from systems.nfsd import NFSD
from systems.photometric import Photometric
from systems.sds import SDS
from systems.sjc import SJC
from systems.tsm import TSM
from systems.vsd import VSD

SYSTEMS: dict[str, Any] = {
    "sds": SDS,
    "sjc": SJC,
    "csd": CSD,
    "nfsd": NFSD,
    "ism": ISM,
    "tsm": TSM,
    "csm": CSM,
    "cds": CDS,
    "asd": ASD,
    "balanced": Balanced,
    "photometric": Photometric,
    "vsd": VSD,
}
