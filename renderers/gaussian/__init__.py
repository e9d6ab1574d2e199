# SPDX-License-Identifier: Apache-2.0
"""Parts of scenes made of Gaussians: where they start, how they grow and move, the surface of their density."""
