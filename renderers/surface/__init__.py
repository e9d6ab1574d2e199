# SPDX-License-Identifier: Apache-2.0
"""Parts of scenes made of triangles: extraction, clean-up, texture coordinates, drawing, materials, files."""
