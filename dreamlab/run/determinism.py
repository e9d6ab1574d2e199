# SPDX-License-Identifier: Apache-2.0
"""Equal runs end with equal bytes: how many threads, and only algorithms that give the same sums every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dreamlab.core.threads import choose
from dreamlab.run.folder import Run


@contextmanager
def deterministic(run: Run, shared: bool = False) -> Iterator[None]:
    """For the time of the work in a run. It keeps the thread count it began with (`core.threads` chooses it): sums in
    another order differ in their last bits. What the process had set before is put back. `shared`: several processes
    do the work, each with the threads that it was started with."""
    threads, before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled: Any = torch.utils.deterministic  # a module with a property, which no annotation knows
    fills = filled.fill_uninitialized_memory
    own = threads if shared else run.state().get("threads")
    if own is None:
        own, why = choose(threads)
        run.set_state(threads=own)
        if why:
            run.warn(why)
    try:
        if own != threads:
            torch.set_num_threads(own)
        # The same flag as use_deterministic_algorithms(True, warn_only=True), which imports a compiler to set it.
        torch.set_deterministic_debug_mode("warn")
        filled.fill_uninitialized_memory = False  # with NaN, for programs that read what nobody wrote: ours do not
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(before)
        filled.fill_uninitialized_memory = fills
