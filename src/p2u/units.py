"""Sizes and times as people write them."""

from __future__ import annotations

from p2u.errors import UsageError

_SECONDS = {"": 1, "s": 1, "ms": 0.001, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Bytes of ``24MiB``, ``25MB``, ``1000000``."""
    number = text.strip().rstrip("iBbKkMmGgTt")
    unit = text.strip()[len(number) :].lower()
    scale = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
    scale |= {f"{u}b": scale[u] for u in "kmgt"}
    scale |= {f"{u}ib": 1024 ** (i + 1) for i, u in enumerate("kmgt")}
    try:
        return int(float(number) * scale[unit])
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a size", hint="Write it like 24MiB or 25MB") from None


def parse_seconds(text: str) -> float:
    """Seconds of ``2s``, ``500ms``, ``1.5``, ``1m``, ``2h``, ``30d``."""
    number = text.strip().rstrip("sminhd ")
    unit = text.strip()[len(number) :].strip()
    try:
        return float(number) * _SECONDS[unit]
    except (KeyError, ValueError):
        raise UsageError(f"{text!r} is not a time", hint="Write it like 2s or 500ms") from None
