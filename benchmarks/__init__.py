# SPDX-License-Identifier: Apache-2.0
"""Speed claims that can be run: both sides measured in one process, interleaved."""
