# SPDX-License-Identifier: Apache-2.0
"""A run of --role mv, sd or sd-control as the folder that guidances load.

python -m dreamlab.toybox.training.sd.export RUN OUT [DECODER]     DECODER: a later sd-vae run, of the decoder alone

What is called toybox-sd is the Stable Diffusion inside toybox-mv, made where it is asked for (`dreamlab.hub.within`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from dreamlab.core.errors import InputError
from dreamlab.toybox.training.sd.command import averaged_vae, read_plan, resumed
from dreamlab.toybox.training.sd.folder import write_vae
from dreamlab.toybox.training.sd.unet import UnetCourse


def export(run: Path, out: Path, decoder: Path | None = None) -> None:
    """The averaged weights, as they were last saved; the run may be going on meanwhile."""
    known = read_plan(run)
    course = resumed(run, known["role"], {})
    if not isinstance(course, UnetCourse):
        raise InputError(f"{run}: an autoencoder's run; export one of mv or sd that started from it")
    course.export(out)
    if decoder is not None:
        write_vae(out / "vae", averaged_vae(decoder), known["scale"])


if __name__ == "__main__":
    export(*map(Path, sys.argv[1:]))
