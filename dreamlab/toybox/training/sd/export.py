# SPDX-License-Identifier: Apache-2.0
"""A run of --role mv or sd as the folder that guidances load.

python -m dreamlab.toybox.training.sd.export RUN OUT [DECODER]     DECODER: a later sd-vae run, of the decoder alone
"""

from __future__ import annotations

import sys
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.toybox.training.sd.command import PIPELINES, averaged_vae, read_plan, resumed
from dreamlab.toybox.training.sd.folder import write_pipeline, write_vae


def export(run: Path, out: Path, decoder: Path | None = None) -> None:
    """The averaged weights, as they were last saved; the run may be going on meanwhile."""
    known = read_plan(run)
    if known.get("role") not in PIPELINES:
        raise InputError(f"{run}: not a run of {' or '.join(PIPELINES)}; only those are exported")
    course = resumed(run, known["role"], {})
    write_pipeline(out, PIPELINES[known["role"]], course.ema, run / "vae", run / "tokenizer")
    if decoder is not None:
        write_vae(out / "vae", averaged_vae(decoder), known["scale"])


if __name__ == "__main__":
    export(*map(Path, sys.argv[1:]))
