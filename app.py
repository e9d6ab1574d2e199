# SPDX-License-Identifier: Apache-2.0
"""Starts the studio."""

import sys

if __name__ == "__main__":
    print('the web studio is not in this version; use: dreamlab dream "a red mushroom"', file=sys.stderr)
    sys.exit(2)
