# SPDX-License-Identifier: Apache-2.0
"""`python -m dreamlab`."""

from dreamlab.cli import main

main()
