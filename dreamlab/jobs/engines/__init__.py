# SPDX-License-Identifier: Apache-2.0
"""Many prompts on many machines. No scheduler of our own: an engine (this machine, Ray, Slurm) keeps workers alive, and
workers pull their work from a store, a folder or a bucket, in which one operation decides everything: create what is
not there. Who creates it first, did it; clocks, leases and death certificates only decide who tries."""
