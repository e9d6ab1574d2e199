# SPDX-License-Identifier: Apache-2.0
"""The scoreboard: held-out prompts x seeds x systems x scenes, each run like a dream and measured against the truth."""
