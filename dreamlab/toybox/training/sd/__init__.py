# SPDX-License-Identifier: Apache-2.0
"""A small Stable Diffusion of the procedural world, and its four-view sibling, in the layout that every user has."""
