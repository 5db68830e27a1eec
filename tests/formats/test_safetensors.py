"""Listing the tensors of safetensors files: agreement with the official library, and attacks."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hostile_files import check_refused
from hypothesis import given
from hypothesis import strategies as st

from p2u.errors import DiskError, FormatError
from p2u.formats.safetensors import scan

ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def entry(dtype: str, shape: list[Any], begin: Any, end: Any, **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def made(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file: ``header`` is JSON text, bytes, or an object to write as JSON."""
    if isinstance(header, str):
        header = header.encode()
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def official_accepts(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, "np"):
            return True
    except safetensors.SafetensorError:
        return False


# Name, file, a part of the message. The official library refuses all but STRICTER, too.
ATTACKS: list[tuple[str, bytes, str]] = [
    ("empty file", b"", "at least 8 bytes"),
    ("seven bytes", b"\0" * 7, "at least 8 bytes"),
    ("header longer than the file", made({}, length=3), "ends after 2"),
    ("header longer than allowed", made({}, length=100_000_001), "at most 100000000"),
    ("header of 2**64 - 1", made({}, length=2**64 - 1), "at most 100000000"),
    ("header of 2**63", made({}, length=2**63), "at most 100000000"),
    ("git lfs pointer", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("pickle", b"\x80\x02}q\x00." + b"\0" * 64, "header"),
    ("zip", b"PK\x03\x04" + b"\0" * 64, "header"),
    ("empty header", made(b""), "not valid JSON"),
    ("array", made("[]"), "must be a JSON object"),
    ("number", made("1"), "must be a JSON object"),
    ("cut JSON", made('{"a":'), "not valid JSON"),
    ("two objects", made("{}{}"), "not valid JSON"),
    ("trailing NUL", made(b"{}\0"), "not valid JSON"),
    ("byte order mark", made(b"\xef\xbb\xbf{}"), "not valid JSON"),
    ("not UTF-8", made(b'{"\xff":1}'), "not UTF-8"),
    ("UTF-16", made('{"a":1}'.encode("utf-16")), "not UTF-8"),
    ("nested too deeply", made('{"a":' + "[" * 100_000), "nested too deeply"),
    ("duplicate name", made(f'{{"a":{ENTRY},"a":{ENTRY}}}', b"0000"), "appears twice"),
    (
        "duplicate name, escaped",
        made(f'{{"a":{ENTRY},"\\u0061":{ENTRY}}}', b"0000"),
        "appears twice",
    ),
    (
        "duplicate field",
        made('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"0000"),
        "appears twice",
    ),
    ("lone surrogate as a name", made(f'{{"\\ud800":{ENTRY}}}', b"0000"), "not Unicode"),
    ("entry is a list", made({"a": []}), "expected an object"),
    ("entry is null", made({"a": None}), "expected an object"),
    ("entry is empty", made({"a": {}}), "dtype must be"),
    ("no dtype", made({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"0000"), "dtype must be"),
    ("no shape", made({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"0000"), "shape must be"),
    ("no offsets", made({"a": {"dtype": "F32", "shape": [1]}}, b"0000"), "data_offsets must be"),
    ("dtype is a number", made({"a": entry(1, [1], 0, 4)}, b"0000"), "dtype must be"),  # type: ignore[arg-type]
    ("dtype is empty", made({"a": entry("", [1], 0, 4)}, b"0000"), "dtype must be"),
    ("shape is a number", made({"a": entry("F32", 1, 0, 4)}, b"0000"), "shape must be"),  # type: ignore[arg-type]
    ("negative dimension", made({"a": entry("F32", [-1], 0, 4)}, b"0000"), "shape must be"),
    ("two negative", made({"a": entry("F32", [-1, -1], 0, 4)}, b"0000"), "shape must be"),
    ("float dimension", made({"a": entry("F32", [1.0], 0, 4)}, b"0000"), "shape must be"),
    ("boolean dimension", made({"a": entry("F32", [True], 0, 4)}, b"0000"), "shape must be"),
    ("text dimension", made({"a": entry("F32", ["1"], 0, 4)}, b"0000"), "shape must be"),
    ("dimension 2**64", made({"a": entry("F32", [2**64], 0, 4)}, b"0000"), "shape must be"),
    ("NaN dimension", made('{"a":{"dtype":"F32","shape":[NaN]}}'), "NaN is not JSON"),
    (
        "dimension of 5000 digits",
        made('{"a":{"dtype":"F32","shape":[' + "1" * 5000 + "]}}"),
        "not valid JSON",
    ),
    ("product overflows", made({"a": entry("F32", [2**40, 2**40], 0, 4)}, b"0000"), "64 bits"),
    ("product wraps to 4", made({"a": entry("U8", [2**62, 4, 4], 0, 4)}, b"0000"), "64 bits"),
    ("overflow before a zero", made({"a": entry("F32", [2**63, 2, 0], 0, 0)}), "64 bits"),
    (
        "many huge dimensions",
        made({"a": entry("F32", [2**63] * 20_000, 0, 4)}, b"0000"),
        "64 bits",
    ),
    ("one offset", made({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}), "two offsets"),
    ("three offsets", made('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4,4]}}'), "two off"),
    ("negative offset", made({"a": entry("F32", [1], -4, 0)}, b"0000"), "two offsets"),
    ("float offset", made({"a": entry("F32", [1], 0.0, 4)}, b"0000"), "two offsets"),
    ("offset 2**64", made({"a": entry("F32", [1], 0, 2**64)}, b"0000"), "two offsets"),
    ("ends before it begins", made({"a": entry("F32", [1], 4, 0)}, b"0000"), "before it begins"),
    ("too long for the shape", made({"a": entry("F32", [1], 0, 8)}, b"0" * 8), "takes 4 bytes"),
    ("too short for the shape", made({"a": entry("F32", [2], 0, 4)}, b"0000"), "takes 8 bytes"),
    ("scalar of no bytes", made({"a": entry("F32", [], 0, 0)}), "takes 4 bytes"),
    ("half a byte", made({"a": entry("F4", [3], 0, 2)}, b"00"), "takes 1.5 bytes"),
    ("file too short", made({"a": entry("F32", [2], 0, 8)}, b"0000"), "its header describes"),
    ("file too long", made({"a": entry("F32", [1], 0, 4)}, b"00000"), "its header describes"),
    ("data without tensors", made({}, b"0000"), "its header describes"),
    ("starts behind a hole", made({"a": entry("F32", [1], 4, 8)}, b"0" * 8), "leave a hole"),
    (
        "hole between",
        made({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, b"0" * 12),
        "leave a hole",
    ),
    (
        "overlap",
        made({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, b"0" * 12),
        "overlap",
    ),
    (
        "same bytes twice",
        made({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, b"0" * 4),
        "overlap",
    ),
    (
        "empty tensor inside another",
        made({"a": entry("F32", [1], 0, 4), "z": entry("F32", [0], 2, 2)}, b"0" * 4),
        "overlap",
    ),
    ("offset far outside", made({"a": entry("U8", [4], 2**60, 2**60 + 4)}, b"0000"), "hole"),
    (
        "metadata of numbers",
        made({"__metadata__": {"a": 1}, "t": entry("F32", [1], 0, 4)}, b"0000"),
        "__metadata__ must map",
    ),
    ("metadata is a list", made({"__metadata__": []}), "__metadata__ must map"),
    ("nested metadata", made({"__metadata__": {"a": {"b": "c"}}}), "__metadata__ must map"),
    ("surrogate in metadata", made('{"__metadata__":{"a":"\\udfff"}}'), "__metadata__ must map"),
    ("metadata twice", made('{"__metadata__":{},"__metadata__":{}}'), "appears twice"),
    ("key twice in metadata", made('{"__metadata__":{"a":"1","a":"2"}}'), "appears twice"),
]
#: What the official library takes, but we refuse.
STRICTER = {"duplicate name", "duplicate name, escaped", "key twice in metadata"}
IDS = [name for name, _, _ in ATTACKS]


@pytest.mark.parametrize(("name", "content", "expected"), ATTACKS, ids=IDS)
def test_attack_is_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    check_refused(scan, tmp_path / "x.safetensors", content, expected)


@pytest.mark.parametrize(("name", "content", "expected"), ATTACKS, ids=IDS)
def test_attack_list_agrees_with_the_official_library(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert official_accepts(path) is (name in STRICTER)


ACCEPTED: list[tuple[str, bytes, list[tuple[str, int]]]] = [
    ("no tensors", made({}), []),
    ("metadata only", made({"__metadata__": {"format": "pt"}}), []),
    ("null metadata", made({"__metadata__": None}), []),
    ("padded header", made(f'{{"a":{ENTRY}}}    ', b"0000"), [("a", 4)]),
    ("leading space", made(f' {{"a":{ENTRY}}}', b"0000"), [("a", 4)]),
    ("unknown field", made({"a": entry("F32", [1], 0, 4, x=[1])}, b"0000"), [("a", 4)]),
    ("empty name", made({"": entry("F32", [1], 0, 4)}, b"0000"), [("", 4)]),
    ("packed F4", made({"a": entry("F4", [2, 4], 0, 4)}, b"0000"), [("a", 4)]),
    ("packed F6", made({"a": entry("F6_E2M3", [4], 0, 3)}, b"000"), [("a", 3)]),
    ("packed F6, other", made({"a": entry("F6_E3M2", [8], 0, 6)}, b"0" * 6), [("a", 6)]),
    (
        "empty tensors anywhere",
        made(
            {
                "end": entry("F32", [0, 3], 8, 8),
                "b": entry("F32", [1], 4, 8),
                "mid": entry("I64", [0], 4, 4),
                "a": entry("F32", [1], 0, 4),
                "start": entry("BOOL", [5, 0], 0, 0),
            },
            b"0" * 8,
        ),
        [("start", 0), ("a", 4), ("mid", 0), ("b", 4), ("end", 0)],
    ),
    ("zero before an overflow", made({"a": entry("F32", [0, 2**63, 2**63], 0, 0)}), [("a", 0)]),
]


@pytest.mark.parametrize(("name", "content", "expected"), ACCEPTED, ids=[a[0] for a in ACCEPTED])
def test_odd_but_valid(
    tmp_path: Path, name: str, content: bytes, expected: list[tuple[str, int]]
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert official_accepts(path)
    found = scan(str(path), "x")
    assert found.size == len(content)
    assert [(span.name, span.length) for span in found.spans] == expected


def test_unknown_dtype_is_opaque(tmp_path: Path) -> None:
    # Its shape says nothing about its bytes: 5 x 7 elements of what may be 4 bits or a codebook.
    path = tmp_path / "x.safetensors"
    path.write_bytes(made({"q": entry("Q4_K", [5, 7], 0, 11)}, b"x" * 11))
    (span,) = scan(str(path), "x").spans
    assert (span.dtype, span.shape, span.length) == ("Q4_K", (5, 7), 11)
    assert not official_accepts(path)


def test_truncation_at_every_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": np.arange(3, dtype=np.float32), "b": np.array([1], dtype=np.int8)}
    safetensors.numpy.save_file(tensors, path, metadata={"format": "np"})
    whole = path.read_bytes()
    assert scan(str(path), "x").size == len(whole)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            scan(str(path), "x")


def test_missing_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot read"):
        scan(str(tmp_path / "none.safetensors"), "none.safetensors")
    with pytest.raises(DiskError, match="cannot read"):
        scan(str(tmp_path), "folder")


def test_the_header_is_checked_before_it_is_read(tmp_path: Path) -> None:
    # A sparse file of 200 GB whose header would be 99 MB is fine; one byte over the limit is not
    # read at all. Reading either whole would fail or take minutes.
    path = tmp_path / "x.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 100_000_001))
        stream.truncate(200 * 10**9)
    with pytest.raises(FormatError, match="at most 100000000"):
        scan(str(path), "x")


DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "C64": np.dtype("<c8"),
}
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda name: name != "__metadata__"
)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
# Not none: the official writer makes an invalid file of no tensors with metadata.
MODELS = st.dictionaries(
    NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES), min_size=1, max_size=8
)
METADATA = st.none() | st.dictionaries(NAMES, NAMES, max_size=3)


@given(model=MODELS, metadata=METADATA, seed=st.integers(0, 2**32 - 1))
def test_agrees_with_the_official_library(
    tmp_path_factory: pytest.TempPathFactory,
    model: dict[str, tuple[str, tuple[int, ...]]],
    metadata: dict[str, str] | None,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    arrays = {}
    for name, (dtype, shape) in model.items():
        size = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype].itemsize
        raw = random.integers(0, 2 if dtype == "BOOL" else 256, size, dtype=np.uint8)
        arrays[name] = np.frombuffer(raw.tobytes(), DTYPES[dtype]).reshape(shape)
    content = safetensors.numpy.save(arrays, metadata)
    path = tmp_path_factory.mktemp("agree") / "model.safetensors"
    path.write_bytes(content)

    scanned = scan(str(path), "m")
    spans = scanned.spans

    assert scanned.size == len(content)
    assert [span.offset for span in spans] == sorted(span.offset for span in spans)
    found = {
        span.name: {
            "dtype": span.dtype,
            "shape": list(span.shape),
            "data": content[span.offset : span.offset + span.length],
        }
        for span in spans
    }
    written = {
        name: {"dtype": model[name][0], "shape": list(array.shape), "data": array.tobytes()}
        for name, array in arrays.items()
    }
    read = {
        name: {**held, "data": bytes(held["data"])}
        for name, held in safetensors.deserialize(content)
    }
    assert found == written == read


@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_damaged_header_is_our_error_or_what_the_library_reads(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    header = {
        "__metadata__": {"a": "b"},
        "x": entry("F32", [2, 3], 0, 24),
        "y": entry("BF16", [4], 24, 32),
        "z": entry("F4", [2], 32, 33),
    }
    content = bytearray(made(header, bytes(33)))
    end = len(content) - 33
    for at, value in flips:
        content[at % end] = value
    path = tmp_path_factory.mktemp("flips") / "model.safetensors"
    path.write_bytes(content)
    try:
        spans = scan(str(path), "m").spans
    except FormatError:
        return
    # What we accept the library accepts, unless the damage made a dtype that it does not know.
    if all(span.dtype in {*DTYPES, "F4"} for span in spans):
        assert official_accepts(path)
        assert sum(span.length for span in spans) == 33
