# SPDX-License-Identifier: Apache-2.0
"""The studio: REST, page and files on one port, a view on the queue of `dreamlab.jobs`. Nothing optimises here."""
