# SPDX-License-Identifier: Apache-2.0
"""Asking a server for a file: the Hub (`HF_ENDPOINT` names another) or an address of the registry.

Addresses are https, but for 127.0.0.1, and stay so when they lead elsewhere. The user's token is sent to the Hub alone,
also when that redirects to another host, and is never printed.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO
from urllib.parse import urlsplit

from dreamlab.core.errors import ModelError
from dreamlab.core.text import printable

ENDPOINT, TOKEN, TIMEOUT = "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_DOWNLOAD_TIMEOUT"
OFFLINE = ("DREAMLAB_OFFLINE", "HF_HUB_OFFLINE")


@dataclass
class HubSaid:
    """What the Hub says of a file in its own answer, before it redirects to where the bytes are."""

    sha256: str = ""
    commit: str = ""  # of the repository

    def hear(self, headers: http.client.HTTPMessage) -> None:
        tag = str(headers.get("X-Linked-Etag") or "").removeprefix("W/").strip('"')
        commit = str(headers.get("X-Repo-Commit") or "")
        self.sha256 = self.sha256 or (tag if re.fullmatch(r"[0-9a-f]{64}", tag) else "")
        self.commit = self.commit or (commit if re.fullmatch(r"[0-9a-f]{40}", commit) else "")


def endpoint() -> str:
    return os.environ.get(ENDPOINT, "").rstrip("/") or "https://huggingface.co"


def refuse_offline(what: str) -> None:
    for name in OFFLINE:
        if os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on"):
            raise ModelError(
                f"{what}: not fetched, {name} is set; unset it, or bring its files here and say model: PATH"
            )


def host(url: str) -> str:
    return urlsplit(url).netloc


def timeout() -> float:
    try:
        return max(float(os.environ.get(TIMEOUT) or 30), 0.1)
    except ValueError:
        return 30.0


def check_address(url: str, what: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname == "127.0.0.1"):
        raise ModelError(f"{what}: {printable(url)} is no https address; nothing is fetched without encryption")


def token_for(url: str) -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not token or host(url) != host(endpoint()):
        return ""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ModelError(f"{TOKEN} holds characters that no token has; copy it again")
    return token


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Followed as far as they stay encrypted; the token stays with the host that it is for."""

    def __init__(self, what: str, said: HubSaid) -> None:
        self.what, self.said = what, said

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        check_address(newurl, self.what)
        self.said.hear(headers)
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and host(newurl) != host(req.full_url):
            made.remove_header("Authorization")
        return made


def ask(url: str, what: str, offset: int, said: HubSaid) -> http.client.HTTPResponse:
    """The answer to a request for the file from `offset` on; urllib's HTTPError for one of 400 and above."""
    from dreamlab import __version__

    check_address(url, what)
    headers = {"User-Agent": f"dreamlab/{__version__}", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={offset}-"} if offset else {}
    headers |= {"Authorization": f"Bearer {token}"} if (token := token_for(url)) else {}
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(what, said),
    ):
        opener.add_handler(handler)
    # Its scheme is checked above.
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    answer: http.client.HTTPResponse = opener.open(request, timeout=timeout())
    said.hear(answer.headers)
    return answer


def why(error: Exception) -> str:
    """A failure of the connection in words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"answers {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return f"does not answer within {timeout():g} s ({TIMEOUT} sets how long)"
    if isinstance(error, http.client.IncompleteRead):
        return "ends its answer early"
    return f"cannot be reached ({printable(str(reason)) or type(reason).__name__})"
