# SPDX-License-Identifier: Apache-2.0
"""Requests that carry a token stay with the host that it is for."""

from __future__ import annotations

import urllib.request


class StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would carry the token to wherever it points."""

    def redirect_request(self, *given: object, **more: object) -> None:
        return None
