"""JSON of unknown origin: no duplicate keys, no NaN, and every failure is a FormatError."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from p2u.errors import FormatError


class _InvalidJsonError(ValueError):
    """What the hooks below found; never leaves this module."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _InvalidJsonError(f"the key {key!r} appears twice")
            seen.add(key)
    return found


def _no_constant(text: str) -> NoReturn:
    raise _InvalidJsonError(f"{text} is not JSON")


def parse_object(raw: bytes, *, file: str, what: str, hint: str | None = None) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        raw: UTF-8.
        file: For messages.
        what: What is parsed, for messages (``"header"``).
        hint: For messages.

    Raises:
        FormatError: Not UTF-8, not JSON, duplicate keys, or not an object.
    """
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise FormatError(
            f"the {what} is not UTF-8 (byte {error.start})", file=file, hint=hint
        ) from error
    except RecursionError as error:
        raise FormatError(f"the {what} is nested too deeply", file=file, hint=hint) from error
    except ValueError as error:  # JSONDecodeError, the hooks, an integer of too many digits
        raise FormatError(f"the {what} is not valid JSON: {error}", file=file, hint=hint) from error
    if not isinstance(value, dict):
        raise FormatError(
            f"the {what} must be a JSON object, not {type(value).__name__}", file=file, hint=hint
        )
    return value
