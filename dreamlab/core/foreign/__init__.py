# SPDX-License-Identifier: Apache-2.0
"""Files of others: read once, of bounded size, regular ones only; what other people's code parses, a child parses."""
