# SPDX-License-Identifier: Apache-2.0
"""The engine under every rule: branches, predictions, residual, loss; inversion; networks that rules train."""
