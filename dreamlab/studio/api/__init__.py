# SPDX-License-Identifier: Apache-2.0
"""REST: a file for each kind of thing, whose table of endpoints routes, binds and documents at once."""
