# SPDX-License-Identifier: Apache-2.0
"""Writers of single formats, from a `Product` to files; `dreamlab.export.formats` is their table."""
