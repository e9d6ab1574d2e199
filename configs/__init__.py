# SPDX-License-Identifier: Apache-2.0
"""Recipes and the model registry, as package data."""
