# SPDX-License-Identifier: Apache-2.0
"""DreamLab: text or image to 3D and 4D assets by distilling a diffusion prior.

Importing this package is cheap on purpose: it loads neither torch nor any model.
"""

__version__ = "0.1.0"
