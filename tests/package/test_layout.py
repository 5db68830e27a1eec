"""layout.json.zst: what is written is read back, whatever lies is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import zstandard

from p2u.errors import FormatError
from p2u.package.layout import Layout, Tensor, parse_layout
from p2u.package.manifest import FileEntry, Object, Release

FILES = (
    FileEntry("config.json", 10, ("0" * 64,)),
    FileEntry("sub/größe.safetensors", 1000, ("1" * 64, "2" * 64)),
)
RELEASE = Release("v1", FILES, Object("layout.json.zst", 50, "3" * 64), ())
TENSORS = (
    Tensor("empty", "F32", (0, 5), 1, 100, 0, 1, 4),
    Tensor("w", "BF16", (10, 20), 1, 100, 400, 20, 2),
    Tensor("x", "F4", (7,), 1, 500, 4, 4, 1),
    Tensor("scalar", "I64", (), 1, 504, 8, 1, 8),
)
ENTRY = ["w", "BF16", [10, 20], 1, 100, 400, 20, 2]


def layout_bytes(*entries: Any, tree: Any = None) -> bytes:
    text = json.dumps({"tensors": list(entries)} if tree is None else tree)
    return zstandard.ZstdCompressor().compress(text.encode())


def test_layout_round_trip() -> None:
    layout = Layout(TENSORS)
    data = layout.to_bytes()
    assert parse_layout(data, RELEASE) == layout
    assert data == layout.to_bytes()
    assert parse_layout(layout_bytes(ENTRY), RELEASE).tensors == TENSORS[1:2]


def test_rows() -> None:
    t = Tensor("t", "F32", (10, 10), 0, 0, 400, 32, 4)
    assert (t.elems, t.rows) == (100, 4)
    assert t.span(0, 2) == (0, 64)
    assert t.span(2, 2) == (64, 36)


def changed(place: int, value: Any) -> list[Any]:
    return [value if n == place else v for n, v in enumerate(ENTRY)]


@pytest.mark.parametrize(
    "entries",
    [
        [changed(0, 1)],
        [changed(0, "\ud800")],
        [changed(1, "")],
        [changed(1, "F32")],
        [changed(1, 7)],
        [changed(2, [10, 21])],
        [changed(2, [-10, -20])],
        [changed(2, 200)],
        [changed(2, [2**63, 2**63, 2**63])],
        [changed(2, [1] * 2000)],
        [changed(3, 2)],
        [changed(3, -1)],
        [changed(3, 0)],  # the file is shorter
        [changed(4, 601)],
        [changed(4, -1)],
        [changed(4, 1.0)],
        [changed(5, 402)],
        [changed(5, -400)],
        [changed(6, 0)],
        [changed(6, 2**24 + 1)],
        [changed(7, 0)],
        [changed(7, 4)],
        [changed(7, 17)],
        [ENTRY[:7]],
        ["w"],
        [ENTRY, ENTRY],
        [ENTRY, changed(0, "v")],
        [ENTRY, ["v", "U8", [1], 1, 499, 1, 1, 1]],
        [ENTRY, ["v", "U8", [1], 1, 99, 1, 1, 1]],  # out of order
        [ENTRY, ["v", "U8", [0], 1, 300, 0, 1, 1]],  # an empty one inside
        [ENTRY, ["w", "U8", [1], 1, 500, 1, 1, 1]],
    ],
)
def test_lying_layouts(entries: list[Any]) -> None:
    with pytest.raises(FormatError) as caught:
        parse_layout(layout_bytes(*entries), RELEASE)
    assert caught.value.file == "layout.json.zst"


def bomb() -> bytes:
    """A frame that does not say how large it is."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(b"[" * (1 << 20))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{}", b"\0" * 100, layout_bytes(ENTRY) + b"\0", layout_bytes(ENTRY) * 2, bomb()),
        *(layout_bytes(tree=[]), layout_bytes(tree={}), layout_bytes(tree={"tensors": {}})),
        zstandard.ZstdCompressor().compress(b" " * ((256 << 20) + 1)),
    ],
    ids=["empty", "raw", "zeros", "extra", "twice", "unsized", "list", "none", "dict", "large"],
)
def test_layouts_that_are_none(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_layout(data, RELEASE)


def test_every_truncation_of_a_layout() -> None:
    data = Layout(TENSORS).to_bytes()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse_layout(data[:length], RELEASE)
