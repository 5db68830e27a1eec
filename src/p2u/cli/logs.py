"""``--log-format json``: everything that is said becomes one JSON object per line on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from datetime import datetime, timezone
from enum import Enum
from typing import Any

_log = logging.getLogger("p2u")
#: The loggers whose records are printed: ours, and that of the development server.
_LOGGERS = ("p2u", "werkzeug")


class LogFormat(str, Enum):
    """The form of what a command says."""

    TEXT = "text"
    JSON = "json"


class _JsonLines(logging.Handler):
    """Prints records: time, level, logger, message, and the fields of ``extra={"p2u": ...}``."""

    def emit(self, record: logging.LogRecord) -> None:
        tree: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        tree |= getattr(record, "p2u", {})
        if record.exc_info:
            tree["traceback"] = logging.Formatter().formatException(record.exc_info)
        # All but ASCII is escaped: names come from strangers.
        with contextlib.suppress(OSError):  # a disk that is full of logs does not end the command
            print(json.dumps(tree, default=str), file=sys.stderr, flush=True)


_handler = _JsonLines()


def is_json() -> bool:
    """Whether what is said has to be logged."""
    return _handler in _log.handlers


def start() -> None:
    """Print all records as JSON from now on."""
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(_handler)
        logging.getLogger(name).setLevel(logging.INFO)


def end() -> None:
    """Print records no more."""
    for name in _LOGGERS:
        if _handler in logging.getLogger(name).handlers:
            logging.getLogger(name).removeHandler(_handler)
            logging.getLogger(name).setLevel(logging.NOTSET)


def log(level: int, message: str, *, traceback: bool = False, **fields: Any) -> None:
    """Log something that a command says."""
    _log.log(level, "%s", message, extra={"p2u": fields}, exc_info=traceback)
