# SPDX-License-Identifier: Apache-2.0
"""Equal runs end with equal bytes: how many threads, and only algorithms that give the same sums every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dreamlab.run.folder import Run


@contextmanager
def deterministic(run: Run) -> Iterator[None]:
    """For the time of the work in a run. It keeps the thread count it began with: sums in another order differ in their
    last bits. What the process had set before is put back."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    own = run.state().get("threads")
    if own is None:
        run.set_state(threads=threads)
    try:
        if own is not None and own != threads:
            torch.set_num_threads(own)
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
