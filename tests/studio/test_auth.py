# SPDX-License-Identifier: Apache-2.0
"""Who comes in: passwords, tokens that end and cannot be made, files of users."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from dreamlab.core.errors import InputError
from dreamlab.studio.answers import Refusal
from dreamlab.studio.auth import LASTS_S, LOCAL, TRIES, Porter, add_user, hashed, matches, read_users, secret_of

NAME, WORD = "ann", "correct horse battery"
USERS = {NAME: hashed(WORD), "bob": hashed("another password")}


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def door(**more: object) -> Porter:
    return Porter(USERS, bytes(32), **more)  # type: ignore[arg-type]


def test_a_hash_is_scrypt_as_the_library_makes_it() -> None:
    _, cost, block, lanes, salt, key = hashed(WORD).split("$")
    made = hashlib.scrypt(
        WORD.encode(), salt=base64.b64decode(salt), n=int(cost), r=int(block), p=int(lanes), maxmem=1 << 27, dklen=32
    )
    assert base64.b64decode(key) == made and WORD not in hashed(WORD) and hashed(WORD) != hashed(WORD)
    assert matches(WORD, USERS[NAME]) and not matches(WORD + " ", USERS[NAME])


def test_without_users_everybody_is_one_owner() -> None:
    assert Porter({}, b"").who("", "", "1.2.3.4") == LOCAL


def test_basic_and_bearer_and_the_cookie_name_the_same_owner() -> None:
    made = door()
    token = made.token(NAME)
    assert made.who(basic(NAME, WORD), "", "a") == NAME
    assert made.who(f"Bearer {token}", "", "a") == NAME
    assert made.who("", f"other=1; dreamlab={token}", "a") == NAME


@pytest.mark.parametrize(
    "told",
    [
        "",
        "Basic",
        "Basic ???",
        "Bearer",
        "Bearer a.b.c",
        "Bearer " + "x" * 5000,
        "Negotiate x",
        basic("nobody", WORD),
        basic(NAME, "wrong password"),
        basic(NAME, ""),
    ],
)
def test_anything_else_is_nobody(told: str) -> None:
    assert door().who(told, "", "a") is None
    assert door().who("", "dreamlab=x; ;;=", "a") is None


def test_a_token_cannot_be_changed_lengthened_or_kept_after_a_new_password() -> None:
    now = 1000.0
    made = door(now=lambda: now)
    token = made.token(NAME)
    coded, end, mac = token.split(".")
    other = base64.urlsafe_b64encode(b"bob").decode().rstrip("=")
    for forged in (
        f"{other}.{end}.{mac}",
        f"{coded}.{int(end) + 1}.{mac}",
        f"{coded}.{end}.{mac[:-1]}0",
        f"{coded}.{end}.",
    ):
        assert made.owner_of(forged) in (None, NAME if forged == token else None)
    assert made.owner_of(token) == NAME
    now += LASTS_S + 1
    assert made.owner_of(token) is None, "it has ended"
    now = 1000.0
    assert Porter({NAME: hashed("a new password")}, bytes(32), now=lambda: now).owner_of(token) is None
    assert Porter(USERS, bytes(31) + b"\1", now=lambda: now).owner_of(token) is None, "another server's secret"


def test_guessing_is_slowed_down_for_the_guesser_alone() -> None:
    made = door()
    for _ in range(TRIES):
        assert not made.right(NAME, "a wrong password", "9.9.9.9")
    with pytest.raises(Refusal) as caught:
        made.right(NAME, WORD, "9.9.9.9")
    assert caught.value.status == 429 and int(caught.value.headers["Retry-After"]) > 0
    assert made.right(NAME, WORD, "1.1.1.1")


def test_a_file_of_users_holds_hashes_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "users"
    add_user(file, NAME, WORD)
    add_user(file, "bob", "another password")
    add_user(file, NAME, "a third password")
    assert file.stat().st_mode & 0o077 == 0 and WORD not in file.read_text()
    users = read_users(str(file))
    assert set(users) == {NAME, "bob"} and matches("a third password", users[NAME])
    assert matches("secret words", read_users("eve:secret words")["eve"]), "one user may be told on the command line"


@pytest.mark.parametrize(
    "line",
    [
        "ann:plain words",
        "ann",
        ":scrypt$1$1$1$a$b",
        f"a b:{USERS[NAME]}",
        "ann:scrypt$999999$99$1$AAAAAAAAAAAAAAAAAAAAAA==$" + "A" * 43 + "=",
    ],
    ids=["plain", "nothing", "no name", "a blank", "too dear"],
)
def test_a_line_that_is_none_is_said(tmp_path: Path, line: str) -> None:
    (tmp_path / "users").write_text(f"# who\n\n{line}\n")
    with pytest.raises(InputError, match=r"users:3: .*--add-user NAME"):
        read_users(str(tmp_path / "users"))


@pytest.mark.parametrize("given", ["nowhere", "ann:short", "a/b:long enough words"])
def test_what_names_no_users_is_one_line(given: str) -> None:
    with pytest.raises(InputError) as caught:
        read_users(given)
    assert "\n" not in str(caught.value)


def test_the_secret_outlives_the_server(tmp_path: Path) -> None:
    made = secret_of(tmp_path / ".jobs" / "secret")
    assert len(made) == 32 and secret_of(tmp_path / ".jobs" / "secret") == made
    assert (tmp_path / ".jobs" / "secret").stat().st_mode & 0o077 == 0
