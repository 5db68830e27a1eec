"""Run the command line in this process: quick, and with streams of any encoding."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2u.cli import terminal
from p2u.cli.app import run


@dataclass(frozen=True)
class Said:
    """What a command printed, decoded again, and its exit status."""

    status: int
    out: str
    err: str


class _Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def p2u(
    *words: str | Path, encoding: str = "utf-8", columns: int | None = None, colours: bool = False
) -> Said:
    """Run a command.

    Args:
        words: Its name and arguments.
        encoding: Of stdout and stderr.
        columns: Width of the terminal that both are; None: they are no terminals.
        colours: Whether a terminal has any.
    """
    kind = io.TextIOWrapper if columns is None else _Terminal
    out, err = (kind(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["p2u", *map(str, words)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setenv("COLUMNS", str(columns or 80))
        patch.setenv("TERM", "xterm-256color" if colours else "dumb")
        patch.delenv("NO_COLOR", raising=False)
        if not colours:
            patch.setenv("NO_COLOR", "1")
        terminal.console.cache_clear()
        try:
            status = run()
        finally:
            terminal.console.cache_clear()
    texts = []
    for stream in (out, err):
        stream.flush()
        buffer = stream.buffer
        assert isinstance(buffer, io.BytesIO)
        texts.append(buffer.getvalue().decode(encoding))
    return Said(status, *texts)
