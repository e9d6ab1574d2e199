# SPDX-License-Identifier: Apache-2.0
"""Parts of scenes made of volumes: density, rays and compositing, and several things merged along a ray."""
