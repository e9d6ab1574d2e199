# SPDX-License-Identifier: Apache-2.0
"""A run: its folder, its parts put together, its loop, its checkpoints."""
