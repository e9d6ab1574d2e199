# SPDX-License-Identifier: Apache-2.0
"""Assets of others, taken in: painted and given back as they were, begun from, looked into."""
