# SPDX-License-Identifier: Apache-2.0
"""Light and shading: environments, glTF's material, split sum and Monte Carlo, point lights, backgrounds."""
