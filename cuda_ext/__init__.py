# SPDX-License-Identifier: Apache-2.0
"""Native ops and their torch twins.

    from cuda_ext.splat import splat                    3D Gaussians to rgb, alpha, depth, normal
    from cuda_ext.hashgrid import encode                multiresolution hash encoding
    from cuda_ext.march import march, composite         volume rendering through an occupancy grid
    from cuda_ext.raster import raster                  triangles to pixels
    from cuda_ext.interpolate import interpolate        vertex attributes at pixels
    from cuda_ext.texture import texture                mip-mapped texture fetch
    from cuda_ext.antialias import antialias            silhouette blending and its gradient
    from cuda_ext.sdf import draw, sdf                  programs of signed-distance primitives
    from cuda_ext.volume import volume                  what rays meet in dense grids of features
    from cuda_ext.density import density                what a cloud of Gaussians adds up to on a grid
    from cuda_ext.sky import sky                        how much of a white sky points of a surface see
    from cuda_ext.seen import seen                      colours of surface points as pictures show them
    from cuda_ext.adam import adam                      Adam on the visible rows

Importing this package compiles and loads nothing; README.md says how an op is built and how to add one.
"""
