# SPDX-License-Identifier: Apache-2.0
"""Measuring what was made: a strict judge, colours, geometry, appearance, retrieval; CLIP scores for real models."""
