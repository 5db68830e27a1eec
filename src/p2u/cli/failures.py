"""The end of a command that failed: one message, and the exit status of docs/errors.md."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback

from p2u.cli import logs
from p2u.cli.terminal import shown
from p2u.errors import Cancelled, P2UError, UsageError

#: The exit status of each kind of error: the first line that fits counts.
STATUSES: tuple[tuple[type[BaseException], int], ...] = (
    (UsageError, 2),
    (Cancelled, 130),
    (P2UError, 1),
    (MemoryError, 1),
    (OSError, 1),
)
#: Of the command line framework: words that are no command, option or value.
WRONG_WORDS = 2
#: Of an error that is a fault of P2U's.
INTERNAL = 70
#: Set, it shows where an internal error comes from.
DEBUG = "P2U_DEBUG"


def report(error: Exception) -> int:
    """Print an error's message; returns the exit status."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output went away (`p2u inspect PKG | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _status(error)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _wrong_words(error)
    if isinstance(error, P2UError):
        _say(str(error), error)
    elif isinstance(error, OSError):  # all others have become one of ours
        _say(f"cannot write the output: {error.strerror or error}", error)
    elif isinstance(error, MemoryError):
        _say("there is not enough memory; fewer threads need less (--jobs)", error)
    else:
        _say(
            f"internal error: {type(error).__name__}: {error}. Please report it with the text "
            f"that {DEBUG}=1 adds",
            error,
        )
    if os.environ.get(DEBUG) and not logs.is_json():
        print(shown(traceback.format_exc(), keep="\n"), file=sys.stderr)
    return _status(error)


def _status(error: BaseException) -> int:
    return next((status for kind, status in STATUSES if isinstance(error, kind)), INTERNAL)


def _wrong_words(error: Exception) -> int:
    """An error of the command line framework, whose classes are in different places by version."""
    context = getattr(error, "ctx", None)
    message = error.format_message()  # type: ignore[attr-defined]
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        print(context.get_help(), file=sys.stderr)
        return WRONG_WORDS
    hint = f" Try `{context.command_path} --help`" if context is not None else ""
    _say(f"{message}{hint}", error)
    return WRONG_WORDS


def _say(message: str, error: Exception) -> None:
    said = getattr(error, "message", None) or message
    tree = {"kind": type(error).__name__, "message": said}
    tree |= {name: getattr(error, name, None) for name in ("file", "tensor", "hint")}
    if logs.is_json():
        debug = bool(os.environ.get(DEBUG))
        logs.log(logging.ERROR, message, traceback=debug, event="error", error=tree)
    else:
        with contextlib.suppress(OSError):  # of two streams one may be full
            print(f"p2u: {shown(message)}", file=sys.stderr, flush=True)
    if "--json" in sys.argv[1:]:
        with contextlib.suppress(OSError):
            print(json.dumps({"error": tree}), flush=True)
