"""The settings of the cache that the environment makes."""

from __future__ import annotations

import os
from pathlib import Path

from p2u.errors import UsageError
from p2u.units import parse_size

#: Most bytes of the cache, unless ``P2U_CACHE_SIZE`` says otherwise.
SIZE = 32 * 10**9

_NO = {"", "0", "false", "no", "off"}


def cache_folder() -> Path:
    """``$P2U_HOME``, or ``p2u`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.environ.get("P2U_HOME")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "p2u"


def cache_size() -> int:
    """Most bytes of the cache: ``$P2U_CACHE_SIZE`` (``20GB``; 0: no cache), or `SIZE`.

    Raises:
        UsageError: The variable is no size.
    """
    text = os.environ.get("P2U_CACHE_SIZE", "").strip()
    try:
        return parse_size(text) if text else SIZE
    except UsageError as error:
        raise UsageError(f"P2U_CACHE_SIZE: {error.message}", hint=error.hint) from None


def is_offline() -> bool:
    """Whether ``$P2U_OFFLINE``, or if that is not set ``$HF_HUB_OFFLINE``, forbids the network."""
    said = os.environ.get("P2U_OFFLINE", os.environ.get("HF_HUB_OFFLINE", ""))
    return said.strip().lower() not in _NO
