# SPDX-License-Identifier: Apache-2.0
"""Training of the embedded prior from nothing but the procedural world: `python -m dreamlab.toybox.training`."""
