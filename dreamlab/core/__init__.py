# SPDX-License-Identifier: Apache-2.0
"""The ground floor: types, cameras, schedules, random streams, noise tables. Imports nothing of ours."""
