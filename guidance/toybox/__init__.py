# SPDX-License-Identifier: Apache-2.0
"""The embedded prior: its network, its words, its volume, its roles and its reader."""
