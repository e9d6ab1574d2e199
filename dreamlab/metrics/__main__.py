# SPDX-License-Identifier: Apache-2.0
"""`python -m dreamlab.metrics train --steps 2000 --out FILE` makes the judge; `calibrate --json FILE` measures it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from dreamlab.core.errors import DreamError
from dreamlab.core.files import disk_errors, write_json


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dreamlab.metrics", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train the judge from nothing but the world, and set its thresholds")
    training.add_argument("--steps", type=int, default=2000, help="of 128 pictures")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--out", type=Path, default=Path("judge.safetensors"))
    showing = commands.add_parser("calibrate", help="what the judge does with what is known")
    showing.add_argument("--judge", type=Path, help="a judge's file (default: the one in the package)")
    showing.add_argument("--prior", type=Path, help="also judge samples of the prior in this folder")
    showing.add_argument("--rounds", type=int, default=3, help="colourings and instances of each category")
    showing.add_argument("--json", type=Path, help="write the tables to this file")
    return parser.parse_args()


def lines(tables: dict[str, object]) -> list[str]:
    """The tables as text."""
    found = []
    for title, table in tables.items():
        if isinstance(table, dict) and table and all(isinstance(row, dict) for row in table.values()):
            columns = list(next(iter(table.values())))
            found.append(f"\n{title:<22}" + "".join(f"{column[:28]:>30}" for column in columns))
            for name, row in table.items():
                found.append(f"{name:<22}" + "".join(f"{_cell(row[column]):>30}" for column in columns))
        else:
            found.append(f"{title}: {json.dumps(table)}")
    return found


def _cell(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def main() -> int:
    given = arguments()
    try:
        if given.command == "train":
            from dreamlab.metrics.calibration import calibrated
            from dreamlab.metrics.judge_net import load, save
            from dreamlab.metrics.judge_training import NAMES, train

            torch.set_num_threads(1)
            facts = {"steps": given.steps, "seed": given.seed}
            save(given.out, train(given.steps, given.seed), NAMES, facts)
            stored = load(given.out)  # as everyone will have it, in fp16
            save(given.out, stored.net, NAMES, calibrated(stored.net, facts))
            print(given.out)
        else:
            from dreamlab.metrics.calibration import tables
            from dreamlab.metrics.judge import judge

            found = tables(judge(given.judge), given.rounds, given.prior)
            print("\n".join(lines(found)))
            if given.json:
                with disk_errors("writing the tables", given.json):
                    write_json(given.json, found)
    except DreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
