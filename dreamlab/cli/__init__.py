# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command is a few lines over the library; errors are one line and an exit code."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import typer

from dreamlab.cli import (  # their commands join the app
    about,
    batch,
    dream,
    imagine,
    jobs,
    jobs_add,
    jobs_work,
    models,
    runs,
    studio,
    texture,
    toybox,
)
from dreamlab.cli.app import app
from dreamlab.core.allocator import keep_memory
from dreamlab.core.errors import DiskError, DreamError, Interrupted, OutOfMemory, is_disk_error
from dreamlab.core.files import remedy
from dreamlab.core.threads import watch

__all__ = ["about", "app", "batch", "dream", "imagine", "jobs", "jobs_add", "jobs_work", "main", "models"]
__all__ += ["runs", "studio", "texture", "toybox"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exceptions become one line on stderr and the documented exit code."""
    # Threads that wait spin for some microseconds, then sleep. Seen with the default recipe: alone 54 it/s (47 without
    # the spin, 60 spinning for ever), beside two busy programs 24 (22, 10). OpenMP reads this when torch is loaded,
    # which no import above has done.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    keep_memory()
    watch()
    warnings.showwarning = lambda message, *where, **more: print(f"note: {message}", file=sys.stderr)
    write_names_as_bytes()
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        sys.stdout.flush()
    except Interrupted as error:
        sys.exit(error.exit_code)
    except DreamError as error:
        if str(error):
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing is wrong here
        sys.exit(0)
    except MemoryError:
        print("error: out of memory; close other programs, or ask for less", file=sys.stderr)
        sys.exit(OutOfMemory.exit_code)
    except OSError as error:
        give_up_stdout()
        if not is_disk_error(error):
            defect(error)
        where = error.filename or "standard output or a file"  # the system names what was opened, not what is written
        print(f"error: {where}: cannot be written ({error.strerror}); {remedy(error)}", file=sys.stderr)
        sys.exit(DiskError.exit_code)
    except Exception as error:
        shown = getattr(error, "format_message", None)  # the parser's own complaints about the command line
        if shown is not None:
            print(f"error: {' '.join(shown().split())}", file=sys.stderr)
            sys.exit(2)
        defect(error)
    sys.exit(code if isinstance(code, int) else 0)


def defect(error: Exception) -> NoReturn:
    """What nobody foresaw: one line, or where it happened."""
    if os.environ.get("DREAMLAB_DEBUG"):
        raise error
    text = " ".join(str(error).split())[:300]
    print(f"error: {type(error).__name__}: {text} (a defect; DREAMLAB_DEBUG=1 shows where)", file=sys.stderr)
    sys.exit(1)


def write_names_as_bytes() -> None:
    """Names of files may hold bytes that are no text, and letters that a terminal's encoding lacks: they are written as
    the bytes they are, and no command fails at its last line."""

    def encoded(error: UnicodeError) -> tuple[bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return error.object[error.start : error.end].encode("utf-8", "surrogateescape"), error.end

    codecs.register_error("names", encoded)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="names")


def give_up_stdout() -> None:
    """If standard output takes no more, forget what waits for it, or the exit would fail once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
