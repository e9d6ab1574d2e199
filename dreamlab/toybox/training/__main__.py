# SPDX-License-Identifier: Apache-2.0
"""`python -m dreamlab.toybox.training --role image --minutes 180 --out runs/prior`; `--resume` goes on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dreamlab.core.errors import DreamError
from dreamlab.toybox.training.command import IMAGE, begin
from dreamlab.toybox.training.roles import ROLES


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dreamlab.toybox.training", description=__doc__)
    parser.add_argument("--role", choices=ROLES, default="image")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--minutes", type=float, default=180.0, help="stop after this long; --resume goes on")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="of the loop, and as many again while drawing (default: torch's)")
    parser.add_argument("--start", default=IMAGE, help="prior another role starts from: a folder or shipped name")
    parser.add_argument("--resume", action="store_true", help="go on in --out with its plan")
    for name, kind, text in (
        ("seed", int, "of a new run"),
        ("batch", int, "pictures per step (default 48; 256 on cuda)"),
        ("views", int, "pictures of one object in a batch (default 2; 4 on cuda)"),
        ("rate", float, "peak learning rate (default 2.5e-3)"),
        ("total", int, "pictures after which the rate has fallen to zero"),
        ("head-after", int, "pictures after which training is at full size"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=text)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    names = ("seed", "batch", "views", "rate", "total", "head_after")
    changes = {name: value for name in names if (value := getattr(given, name)) is not None}
    options = {name: getattr(given, name) for name in ("role", "minutes", "device", "threads", "resume", "start")}
    try:
        return begin(given.out, **options, changes=changes)
    except DreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
