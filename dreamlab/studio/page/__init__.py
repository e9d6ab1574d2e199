# SPDX-License-Identifier: Apache-2.0
"""The studio's page: a gradio app whose parts talk to /v1 of the same server. No optimisation runs in it."""

from dreamlab.studio.page.door import mount

__all__ = ["mount"]
