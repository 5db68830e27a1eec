"""Strict JSON, for texts of unknown origin: no duplicate keys, no NaN, only FormatErrors."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeGuard

from p2u.errors import FormatError


class _InvalidJsonError(ValueError):
    """The hooks below found something; never leaves this module."""


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


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is a str that UTF-8 can hold: JSON's escapes can spell lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_int(value: object, least: int = 0, most: int = 2**64 - 1) -> TypeGuard[int]:
    """Whether it is an integer in a range; True and 1.0 are none."""
    return type(value) is int and least <= value <= most


#: Values of a text whose caller knows no better limit: some 100 bytes of memory each.
MAX_NODES = 4 << 20


def count_nodes(raw: bytes) -> int:
    """An upper bound of the number of values in a JSON text, without parsing it."""
    return 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def parse_object(
    raw: bytes,
    *,
    file: str,
    what: str | None = None,
    hint: str | None = None,
    nodes: int = MAX_NODES,
) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        raw: UTF-8.
        file: For messages.
        what: The part of the file that is parsed, for messages (``"header"``); None: all of it.
        hint: For messages.
        nodes: Most values that it may have: an empty list of two bytes takes 70 in memory.

    Raises:
        FormatError: Not UTF-8, not JSON, duplicate keys, nested too deeply, too many values, or not
            an object.
    """
    subject = f"the {what}" if what else "it"
    if len(raw) > nodes and count_nodes(raw) > nodes:
        raise FormatError(
            f"{subject} has more than {nodes} values, the most that are allowed",
            file=file,
            hint=hint,
        )
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{subject} is not UTF-8 (byte {error.start})", file=file, hint=hint
        ) from error
    except RecursionError as error:
        raise FormatError(f"{subject} is nested too deeply", file=file, hint=hint) from error
    except ValueError as error:  # JSONDecodeError, the hooks, an integer of too many digits
        raise FormatError(f"{subject} is not valid JSON: {error}", file=file, hint=hint) from error
    if not isinstance(value, dict):
        raise FormatError(
            f"{subject} must be a JSON object, not {type(value).__name__}", file=file, hint=hint
        )
    return value
