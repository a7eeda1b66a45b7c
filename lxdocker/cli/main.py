"""The ``lxdocker`` program. Only this package prints results or exits."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import NoReturn

from lxdocker import __version__
from lxdocker.cli import completion
from lxdocker.cli.app import INTERRUPTED, Run, app
from lxdocker.cli.console import Console, OutputError
from lxdocker.errors import LxdockerError, UsageError
from lxdocker.log import RUN, Log, shell
from lxdocker.reasons import in_words
from lxdocker.values import home_folder

# Importing them adds their commands, in the order of --help.
# isort: off
from lxdocker.cli import start, look, images, lists, compare, doctor  # noqa: F401 - as above
from lxdocker.cli import hosts, trusting, appliance, builder, publish, unattended, shells  # noqa: F401 - as above

# isort: on

PROGRAMS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/snap/bin")


def main() -> NoReturn:
    """The ``lxdocker`` program. Exit status: 0 success, 1 an image failed, 2 usage, configuration or host."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every locale has every character
    complete(os.environ)
    if (line := os.environ.pop(completion.VARIABLE, None)) is not None:
        completion.answer(line)
    console = Console()
    told: list[Callable[[LxdockerError], None]] = []
    misuse: list[str] = []
    before = signal.getsignal(signal.SIGINT) or signal.SIG_DFL
    try:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there is work to stop
        try:
            with Log(console.log, os.environ) as log:
                _run(Run(console, log, told, misuse))
        except LxdockerError as error:
            if isinstance(error, OutputError):
                raise
            console.error(error)
            if "--json" in sys.argv[1:]:
                from lxdocker.cli import documents

                console.json(documents.failed(error))
            for tell in told:
                tell(error)
            raise SystemExit(error.exit_code) from None
        except SystemExit:
            if misuse and "--json" in sys.argv[1:]:  # what typer has printed for people
                from lxdocker.cli import documents

                console.json(documents.failed(UsageError(misuse[0], "", "see --help")))
            raise
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except OutputError as error:
        # Nothing more may be written there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        if not error.reader_left:
            console.error(error)
        raise SystemExit(error.exit_code) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of KeyboardInterrupt
            console.note("interrupted; finished images are kept, the next run continues")
        raise
    finally:
        signal.signal(signal.SIGINT, before)  # in the middle of ending, a traceback would be all that it does
        _forget_unread_errors()
        # Or Python would search all objects for cycles once more before it ends, for a tenth of a second.
        gc.freeze()
    raise SystemExit(0)


def _forget_unread_errors() -> None:
    """Python would try once more to write what nobody reads on stderr, and end with status 120."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def complete(environ: MutableMapping[str, str]) -> None:
    """Adds what cron and systemd leave out: the usual folders of programs, and the home folder.

    Helpers for logins, xdelta3 and the snaps' lxc are in such folders. What is given comes first, and a PATH without
    /usr/bin, which somebody chose, stays as it is.
    """
    given = environ["PATH"].split(os.pathsep) if environ.get("PATH") else ["/usr/bin"]
    if "/usr/bin" in given:
        environ["PATH"] = os.pathsep.join([*given, *(folder for folder in PROGRAMS if folder not in given)])
    if not environ.get("HOME"):
        environ["HOME"] = str(home_folder(environ))


def _check_working_folder() -> None:
    """Relative paths and ./images.d need it."""
    try:
        Path.cwd()
    except OSError as error:
        why = error.strerror or in_words(error)
        raise UsageError("cannot use the working folder", why, "change to a folder that exists: cd /") from None


def _run(run: Run) -> None:
    """Runs one command; its start and end go to the log file."""
    RUN.info("lxdocker %s: %s", __version__, shell(sys.argv))
    try:
        _check_working_folder()
        app(obj=run)
    except LxdockerError as error:
        RUN.error("error: %s -> %s", error, error.resolution)
        raise
    except SystemExit as end:
        RUN.info("exit status %s", end.code or 0)
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:  # --help, which typer writes
            raise OutputError(error) from None
        RUN.exception("ended")
        raise
    except BaseException:
        RUN.exception("ended")
        raise
