# SPDX-License-Identifier: Apache-2.0
"""What the table of guidances holds."""

from __future__ import annotations

from typing import Any, Protocol

from dreamlab.core.cards import Entry, GuidanceCard
from dreamlab.core.types import Guidance
from guidance.shared.worlds import Worlds


class GuidanceKind(Entry, Protocol):
    """A class of guidances."""

    def card(self, settings: Any) -> GuidanceCard: ...

    def build(self, settings: Any, worlds: Worlds | None) -> Guidance:
        """Ready on the CPU; `worlds` are for those that know pictures instead of having learnt them."""
