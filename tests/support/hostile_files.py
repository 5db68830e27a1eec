"""What the readers of all formats owe to a file that lies."""

from __future__ import annotations

from collections.abc import Callable
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
