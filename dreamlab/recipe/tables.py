# SPDX-License-Identifier: Apache-2.0
"""The one file that knows the tables: what a recipe can name, section by section."""

from __future__ import annotations

from dreamlab.recipe.bind import Tables
from guidance import GUIDANCE
from renderers import SCENES
from systems import SYSTEMS
from systems.engine.regularisers import REGULARISERS

TABLES = Tables(SCENES, SYSTEMS, GUIDANCE, REGULARISERS)
