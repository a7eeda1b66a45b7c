"""A book of visitors: whoever comes is written down, and gets what is in it."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BOOK = Path("/data/visitors")


def visit(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    with BOOK.open("a") as book:
        book.write(f"{environ['PATH_INFO']} seen by {os.getuid()}:{os.getgid()}\n")
    # In one piece, as several workers print.
    environ["wsgi.errors"].write(f"visited: {environ['PATH_INFO']}\n")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [BOOK.read_bytes()]
