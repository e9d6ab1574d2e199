# SPDX-License-Identifier: Apache-2.0
"""Starts the studio, as `dreamlab studio` does, with the same options."""

import sys

if __name__ == "__main__":
    from dreamlab.cli import main

    main(["studio", *sys.argv[1:]])
