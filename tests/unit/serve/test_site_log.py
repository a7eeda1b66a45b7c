"""The server's log of requests, where it can't be written."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from lxdocker.serve.site import log_to_stderr


def test_a_log_that_cannot_be_written_hinders_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()

    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    for stream in (None, closed, Full()):
        monkeypatch.setattr(sys, "stderr", stream)
        log_to_stderr("GET / 200")


def test_a_line_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("GET / 200")
    assert capsys.readouterr().err == "GET / 200\n"
