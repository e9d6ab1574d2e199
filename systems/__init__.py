# SPDX-License-Identifier: Apache-2.0
"""One distillation rule per file; this table is all there is to registering one."""

from __future__ import annotations

from collections.abc import Mapping

from systems.asd import ASD
from systems.balanced import Balanced
from systems.bootstrapped import Bootstrapped
from systems.bridge import Bridge
from systems.cds import CDS
from systems.cfd import CFD
from systems.csd import CSD
from systems.csds import CSDS
from systems.csm import CSM
from systems.dsd import DSD
from systems.engine.rule import RuleKind
from systems.grid import Grid
from systems.hifa import HiFA
from systems.ism import ISM
from systems.jsd import JSD
from systems.mvdream import MVDream
from systems.nfsd import NFSD
from systems.order import Order
from systems.photometric import Photometric
from systems.rfds import RFDS
from systems.sdi import SDI
from systems.sds import SDS
from systems.semantic import Semantic
from systems.sgc import SGC
from systems.shape_guides import Box, Cloud
from systems.sjc import SJC
from systems.style import Style
from systems.tsm import TSM
from systems.video import Video
from systems.vsd import VSD

SYSTEMS: Mapping[str, RuleKind] = {
    "sds": SDS,
    "hifa": HiFA,
    "sjc": SJC,
    "csd": CSD,
    "nfsd": NFSD,
    "ism": ISM,
    "tsm": TSM,
    "csm": CSM,
    "cds": CDS,
    "asd": ASD,
    "balanced": Balanced,
    "vsd": VSD,
    "photometric": Photometric,
    "cfd": CFD,
    "sdi": SDI,
    "dsd": DSD,
    "rfds": RFDS,
    "jsd": JSD,
    "order": Order,
    "mvdream": MVDream,
    "bridge": Bridge,
    "csds": CSDS,
    "style": Style,
    "grid": Grid,
    "video": Video,
    "semantic": Semantic,
    "bootstrapped": Bootstrapped,
    "sgc": SGC,
    "box": Box,
    "cloud": Cloud,
}
