# SPDX-License-Identifier: Apache-2.0
"""Torch twins: each native op in plain torch, float64-capable. The twin is the specification."""
