# SPDX-License-Identifier: Apache-2.0
"""Native ops and their torch twins."""
