# SPDX-License-Identifier: Apache-2.0
"""The process that parses: `python -m dreamlab.core.foreign.child KIND PATH`, arrays on stdout, a reason on stderr.

It bounds its own memory and time before it imports anything large.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dreamlab.core.foreign.apart import MEMORY, NO_MEMORY, REFUSED, SECONDS
from dreamlab.core.foreign.headers import Refused


def _mesh(path: Path) -> Mapping[str, Any]:
    from dreamlab.core.foreign.mesh_parser import parse

    return parse(path)


def _picture(path: Path) -> Mapping[str, Any]:
    from dreamlab.core.foreign.picture_parser import parse

    return parse(path)


def _map(path: Path) -> Mapping[str, Any]:
    from dreamlab.core.foreign.picture_parser import parse_map

    return parse_map(path)


def _splats(path: Path) -> Mapping[str, Any]:
    from dreamlab.core.foreign.splat_parser import parse

    return parse(path)


def _asset(path: Path) -> Mapping[str, Any]:
    from dreamlab.core.foreign.asset_parser import parse

    return parse(path)


PARSERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    "mesh": _mesh,
    "picture": _picture,
    "map": _map,
    "splats": _splats,
    "asset": _asset,
}


def bound() -> None:
    """No more memory and time than agreed; a system without limits has the parent's clock alone."""
    if sys.platform == "win32":
        return
    import resource

    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (wanted, hard))


def main() -> int:
    bound()
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no array
    try:
        from safetensors.numpy import save

        packed = save(dict(PARSERS[sys.argv[1]](Path(sys.argv[2]))))
        with os.fdopen(out, "wb") as handle:
            handle.write(packed)
    except Refused as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return REFUSED
    except MemoryError:
        return NO_MEMORY
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
