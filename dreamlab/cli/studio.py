# SPDX-License-Identifier: Apache-2.0
"""`dreamlab studio`: the page and REST on one port of this machine."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dreamlab.cli.app import app, check_device
from dreamlab.core.errors import InputError, RecipeError


@app.command()
def studio(
    root: Annotated[Path, typer.Option(help="the folder of runs")] = Path("runs"),
    port: Annotated[int, typer.Option(help="0: any that is free")] = 7860,
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda or cuda:N, a worker for each; may be said several times")
    ] = None,
    listen: Annotated[str, typer.Option(help="the address; any but this machine's own needs --auth")] = "127.0.0.1",
    auth: Annotated[str | None, typer.Option(help="a file of users, or user:password")] = None,
    add_user: Annotated[
        str | None,
        typer.Option(help="write a user into the file of --auth, with a password from the terminal or stdin"),
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="a host name it may be asked for by, behind a proxy")] = None,
    mcp: Annotated[bool, typer.Option("--mcp", help="also the Model Context Protocol at /mcp")] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="the page, or REST alone")] = True,
    work: Annotated[bool, typer.Option("--work/--no-work", help="keep the queue's workers, or only submit")] = True,
    ray_address: Annotated[
        str, typer.Option(help="http://HOST:8265 of a Ray cluster that makes the jobs; its token is in RAY_AUTH_TOKEN")
    ] = "",
    ray_store: Annotated[
        str, typer.Option(help="a folder, s3://, gs:// or az:// that this machine and the cluster reach")
    ] = "",
    ray_jobs: Annotated[int, typer.Option(min=1, max=64, help="so many on the cluster at one time")] = 1,
    ray_gpus: Annotated[float, typer.Option(min=0, help="of each, a fraction where several share one")] = 0,
    ray_token: Annotated[Path | None, typer.Option(help="a file with its token, in place of the variable")] = None,
    sure: Annotated[bool, typer.Option("--i-know", help="listen to others without --auth")] = False,
) -> None:
    """Serve the studio until Ctrl-C: jobs are saved then, and go on when it is started again. Prints its address."""
    if add_user is not None:
        if auth is None:
            raise RecipeError("--add-user writes into a file: name it with --auth FILE")
        from dreamlab.studio.auth import add_user as write

        write(Path(auth), add_user, password(add_user))
        print(f"{auth}: {add_user} may sign in")
        return
    devices = list(device or ([] if ray_address else ["cpu"]))
    if ray_address or ray_store:
        devices += on_cluster(ray_address, ray_store, ray_jobs, ray_gpus, ray_token)
    for each in device or []:
        if each != "cpu":  # which is there; torch is loaded while nobody waits for it
            check_device(each)
    from dreamlab.studio.auth import read_users
    from dreamlab.studio.server import check, serve
    from dreamlab.studio.studio import Options

    users = {} if auth is None else read_users(auth)
    names = frozenset(each.lower() for each in name or [])
    options = Options(root, listen, port, users, names, tuple(devices), page, mcp, work)
    check(options, sure)
    raise typer.Exit(serve(options, lambda line: print(line, flush=True)))


def on_cluster(address: str, store: str, jobs: int, gpus: float, token: Path | None) -> list[str]:
    """The devices that a cluster is; the workers of this studio hear of it by their environment."""
    from dreamlab.jobs.engines.bucket import ObjectStore
    from dreamlab.jobs.engines.rayjobs import TOKEN, ClusterAway
    from dreamlab.jobs.engines.remote import RAY, ClusterPlace

    if not (address and store):
        raise RecipeError("a cluster needs both: --ray-address http://HOST:8265 and --ray-store URL")
    if token is not None:
        try:
            os.environ[TOKEN] = token.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise InputError(f"--ray-token {token}: no file with a token") from None
    place = ClusterPlace(address, store if "://" in store else str(Path(store).absolute()), gpus)
    ObjectStore(place.store)
    try:
        place.jobs().check()
    except ClusterAway as error:
        print(f"note: {error}; jobs wait until it does", file=sys.stderr)
    place.announce()
    return [RAY] * jobs


def password(user: str) -> str:
    """Typed without being shown, or a line of stdin."""
    if sys.stdin.isatty():
        first = getpass.getpass(f"password of {user}: ")
        if getpass.getpass("again: ") != first:
            raise RecipeError("--add-user: the two are not the same; nothing was changed")
        return first
    return sys.stdin.readline().rstrip("\n")
