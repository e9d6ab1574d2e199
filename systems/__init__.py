# SPDX-License-Identifier: Apache-2.0
"""One distillation rule per file; this table is all there is to registering one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamlab.core.table import Table

if TYPE_CHECKING:
    from systems.engine.rule import RuleKind

SYSTEMS: Table[RuleKind] = Table(
    __name__,
    {
        "sds": "sds.SDS",
        "hifa": "hifa.HiFA",
        "sjc": "sjc.SJC",
        "csd": "csd.CSD",
        "nfsd": "nfsd.NFSD",
        "ism": "ism.ISM",
        "tsm": "tsm.TSM",
        "csm": "csm.CSM",
        "cds": "cds.CDS",
        "asd": "asd.ASD",
        "balanced": "balanced.Balanced",
        "vsd": "vsd.VSD",
        "photometric": "photometric.Photometric",
        "palette": "palette.NearestColours",
        "cfd": "cfd.CFD",
        "sdi": "sdi.SDI",
        "dsd": "dsd.DSD",
        "rfds": "rfds.RFDS",
        "jsd": "jsd.JSD",
        "order": "order.Order",
        "mvdream": "mvdream.MVDream",
        "bridge": "bridge.Bridge",
        "csds": "csds.CSDS",
        "style": "style.Style",
        "grid": "grid.Grid",
        "video": "video.Video",
        "semantic": "semantic.Semantic",
        "bootstrapped": "bootstrapped.Bootstrapped",
        "sgc": "sgc.SGC",
        "box": "shape_guides.Box",
        "cloud": "shape_guides.Cloud",
    },
)
