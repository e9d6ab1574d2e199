# SPDX-License-Identifier: Apache-2.0
"""Native ops and their torch twins.

    from cuda_ext.splat import splat        3D Gaussians to rgb, alpha, depth, normal
    from cuda_ext.adam import adam          Adam on the visible rows

Importing this package compiles and loads nothing; README.md says how an op is built and how to add one.
"""
