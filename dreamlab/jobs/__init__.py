# SPDX-License-Identifier: Apache-2.0
"""A durable queue of runs: what is asked, who works on it, what became of it. Standard library and the engine alone."""
