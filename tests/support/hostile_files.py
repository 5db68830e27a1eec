"""Files that lie: damages them, and checks that a format refuses them as it should."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from p2u.errors import FormatError
from p2u.types import Scan


def check_refused(
    scan: Callable[[str, str], Scan], path: Path, content: bytes, expected: str
) -> None:
    """A format's ``scan`` refuses the content, says why, where, and what to do."""
    path.write_bytes(content)
    shown = f"shown/{path.name}"
    with pytest.raises(FormatError) as caught:
        scan(str(path), shown)
    assert expected in str(caught.value)
    assert caught.value.file == shown
    assert caught.value.hint
    assert len(str(caught.value)) < 600  # no message drags a hostile file along


def flipped(whole: bytes, rng: random.Random, end: int) -> Iterator[bytes]:
    """The file with one bit of each of the first ``end`` bytes changed."""
    for at in range(end):
        content = bytearray(whole)
        content[at] ^= 1 << rng.randrange(8)
        yield bytes(content)


def damaged(whole: bytes, rng: random.Random, values: Sequence[int], end: int) -> bytes:
    """Some of the first ``end`` bytes replaced; sometimes a part cut out or doubled."""
    content = bytearray(whole)
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(end)] = rng.choice(values)
    a, b = sorted((rng.randrange(end), rng.randrange(end)))
    return bytes(rng.choice([content, content[:a] + content[b:], content[:b] + content[a:]]))
