# SPDX-License-Identifier: Apache-2.0
"""Webhooks arrive signed, once each if all goes well, and nowhere but at public addresses."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dreamlab.core.errors import InputError
from dreamlab.jobs import notify
from dreamlab.jobs.notify import Notifier, Wire, check_url, public, secret_of
from dreamlab.jobs.queue import Queue
from dreamlab.jobs.states import Job

NAME = "hooks.test"


class Receiver(ThreadingHTTPServer):
    """An https server of another, on this machine: its certificate is for `hooks.test`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        key, self.certificate = folder / "key.pem", folder / "cert.pem"
        subprocess.run(
            [
                *f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={NAME} -addext".split(),
                *[f"subjectAltName=DNS:{NAME}", "-keyout", str(key), "-out", str(self.certificate)],
            ],
            check=True,
            capture_output=True,
        )
        super().__init__(("127.0.0.1", 0), _Heard)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []  # what it says first; 204 afterwards
        self.connections = 0

    def get_request(self):  # type: ignore[no-untyped-def]
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust it hangs up."""

    def url(self, path: str = "/hook?a=1") -> str:
        return f"https://{NAME}:{self.server_address[1]}{path}"

    def wire(self, *addresses: str) -> Wire:
        """A net in which the name means these addresses, and this machine is a public one."""
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        return Wire(trusted, lambda host, port: list(addresses or ("127.0.0.1",)), lambda address: True)


class _Heard(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(({**dict(self.headers), ":path": self.path}, body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Location", "https://127.0.0.1/elsewhere")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    server = Receiver(tmp_path)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


class Rounds:
    """A notifier that is asked for its rounds, at times of our own."""

    def __init__(self, root: Path, wire: Wire) -> None:
        self.said: list[str] = []
        self.queue = Queue(root)
        self.notifier = Notifier(root, self.said.append, wire)
        self.now = 0.0
        self.notifier.round(self.queue, self.now)

    def settle(self, after: float = 0.0) -> None:
        """A round, and whatever it sends has ended."""
        self.now += after
        self.notifier.round(self.queue, self.now)
        for each in self.notifier.waiting:
            if each.under_way is not None:
                each.under_way.exception(20)
        self.notifier.round(self.queue, self.now)


def made(queue: Queue, id: str, url: str, owner: str = "local") -> None:
    queue.submit(Job(id=id, kind="dream", run="a-run", webhook=url, owner=owner))
    assert queue.claim(1, "cpu") is not None


def test_each_state_arrives_once_and_signed(receiver: Receiver, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    rounds = Rounds(root, receiver.wire())
    made(rounds.queue, "abcdefghijkl", receiver.url())
    made(rounds.queue, "nohookatall0", "")
    rounds.settle()
    rounds.queue.finish("abcdefghijkl", 1, 0)
    rounds.settle()
    rounds.settle()
    said = [json.loads(body) for _, body in receiver.heard]
    assert [(each["job"], each["state"], each["attempt"]) for each in said] == [
        ("abcdefghijkl", "running", 1),
        ("abcdefghijkl", "succeeded", 1),
    ]
    assert said[0]["seq"] < said[1]["seq"]
    key = (root / ".jobs" / "webhook.key").read_bytes()
    assert (root / ".jobs" / "webhook.key").stat().st_mode & 0o077 == 0
    for headers, body in receiver.heard:
        assert headers[":path"] == "/hook?a=1"
        when, mac = (part.split("=")[1] for part in headers["Dreamlab-Signature"].split(","))
        assert mac == hmac.new(key, when.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert abs(time.time() - int(when)) < 60
    assert secret_of(root) == key, "one secret per folder"


def test_it_is_tried_again_with_patience_and_given_up(receiver: Receiver, tmp_path: Path) -> None:
    rounds = Rounds(tmp_path / "runs", receiver.wire())
    receiver.answers = [500, 302]
    made(rounds.queue, "abcdefghijkl", receiver.url())
    rounds.settle()
    rounds.settle(notify.DELAYS_S[0] - 0.5)
    assert len(receiver.heard) == 1, "not before its time"
    rounds.settle(1)
    rounds.settle(notify.DELAYS_S[1])
    assert len(receiver.heard) == 3, "a redirection is no arrival, and is not followed"
    assert not rounds.notifier.waiting
    receiver.answers = [500] * 20
    rounds.queue.finish("abcdefghijkl", 1, 0)
    for delay in (0.0, *notify.DELAYS_S, 3600.0, 3600.0):
        rounds.settle(delay)
    assert len(receiver.heard) == 3 + 1 + len(notify.DELAYS_S)
    assert "given up after 6 tries" in rounds.said[0]
    receiver.answers = [410]
    made(rounds.queue, "abcdefghijk2", receiver.url())
    rounds.settle()
    assert not rounds.notifier.waiting, "gone is gone"


def test_what_did_not_arrive_is_sent_by_the_next_one(receiver: Receiver, tmp_path: Path) -> None:
    rounds = Rounds(tmp_path / "runs", receiver.wire())
    receiver.answers = [503]
    made(rounds.queue, "abcdefghijkl", receiver.url())
    rounds.settle()
    again = Rounds(tmp_path / "runs", receiver.wire())
    again.settle()
    assert [json.loads(body)["state"] for _, body in receiver.heard] == ["running", "running"]
    third = Rounds(tmp_path / "runs", receiver.wire())
    third.settle()
    assert len(receiver.heard) == 2, "and not once more"


def test_one_owner_cannot_take_all_and_nobody_waits(receiver: Receiver, tmp_path: Path) -> None:
    gate = threading.Event()
    slow = receiver.wire()

    def resolve(host: str, port: int) -> list[str]:
        if host == "slow.test":
            gate.wait(20)
        return ["127.0.0.1"]

    rounds = Rounds(tmp_path / "runs", Wire(slow.context, resolve, slow.permitted))
    for i in range(9):
        made(rounds.queue, f"slowjob0000{i}", "https://slow.test/hook", owner="greedy")
    made(rounds.queue, "quickjob0000", receiver.url(), owner="modest")
    began = time.monotonic()
    rounds.notifier.round(rounds.queue, 0.0)
    assert time.monotonic() - began < 5, "it waits for no receiver"
    flying = [each.owner for each in rounds.notifier.waiting if each.under_way is not None]
    assert flying.count("greedy") == notify.MOST_OF_AN_OWNER
    assert flying.count("modest") == 1
    gate.set()


def test_only_public_addresses_are_spoken_to(receiver: Receiver, tmp_path: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(receiver.certificate))
    rounds = Rounds(tmp_path / "runs", Wire(trusted, lambda host, port: ["127.0.0.1"]))
    made(rounds.queue, "abcdefghijkl", receiver.url())
    rounds.settle()
    assert receiver.connections == 0
    assert "no public address" in rounds.said[0]
    assert not rounds.notifier.waiting, "nor tried again"
    mixed = Wire(trusted, lambda host, port: ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(notify.Undeliverable):
        mixed.post(receiver.url(), b"{}", {})


def test_what_was_looked_at_is_what_is_connected_to(receiver: Receiver) -> None:
    """A name that means another address at the second question (DNS rebinding) is asked once."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.9"]

    looked: list[str] = []

    def permitted(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        looked.append(str(address))
        return True

    wire = Wire(ssl.create_default_context(cafile=str(receiver.certificate)), resolve, permitted)
    assert wire.post(receiver.url(), b"{}", {}) == 204
    assert (asked, looked) == ([NAME], ["127.0.0.1"])
    other = Wire(ssl.create_default_context(cafile=str(receiver.certificate)), lambda *_: ["127.0.0.1"], permitted)
    with pytest.raises(ssl.SSLCertVerificationError):
        other.post(receiver.url().replace(NAME, "else.test"), b"{}", {})
    assert len(receiver.heard) == 1, "the certificate is looked at by name"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "100.64.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "2001:0:7f00:1::",
    ],
)  # fmt: skip
def test_private_addresses_in_every_notation(address: str) -> None:
    assert not public(ipaddress.ip_address(address))


def test_public_addresses() -> None:
    for address in ("93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e"):
        assert public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/", "ftp://example.org/", "https:///nowhere", "https://127.0.0.1/", "https://[::1]/x",
        "https://user:word@example.org/", "https://example.org:0/", "https://example.org:99999/", "no address", "",
        "https://example.org/\n", "https://example.org/" + "a" * 2000, "https://169.254.169.254/latest/meta-data",
        "https://[", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_urls_that_are_refused_at_once(url: str) -> None:
    with pytest.raises(InputError, match="webhook"):
        check_url(url)


def test_urls_that_are_taken() -> None:
    for url in ("https://example.org/hook", "https://example.org:8443/a?b=c", "https://93.184.215.14/"):
        check_url(url)
