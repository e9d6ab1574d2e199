# SPDX-License-Identifier: Apache-2.0
"""What families of pretrained diffusion models share: loading, texts, encoders of pictures, noise tables, memory."""
