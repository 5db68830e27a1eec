"""NumPy's files: what numpy.save and savez write, and what they never would."""

from __future__ import annotations

import io
import random
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.errors import FormatError
from p2u.formats import npy, npz, scan_model
from p2u.types import Scan


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version)
    return out.getvalue()


def scan(content: bytes, path: Path, module=npy) -> Scan:
    path.write_bytes(content)
    return module.scan(str(path), f"shown/{path.name}")


RNG = np.random.default_rng(3)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("<f4", "F32"),
        ("<f2", "F16"),
        ("<f8", "F64"),
        ("<i8", "I64"),
        ("<i4", "I32"),
        ("<i2", "I16"),
        ("i1", "I8"),
        ("<u8", "U64"),
        ("<u4", "U32"),
        ("<u2", "U16"),
        ("u1", "U8"),
        ("?", "BOOL"),
        ("<c8", "C64"),
        ("<c16", "<c16"),
        (">f4", ">f4"),
    ],
)
def test_element_types(dtype: str, name: str, version: tuple[int, int], tmp_path: Path) -> None:
    array = RNG.integers(0, 2, (3, 5)).astype(dtype)
    content = saved(array, version)
    found = scan(content, tmp_path / "w.npy")
    (span,) = found.spans
    assert found.size == len(content)
    assert (span.name, span.dtype, span.shape, span.file) == ("w", name, (3, 5), "shown/w.npy")
    assert content[span.offset : span.offset + span.length] == array.tobytes()


def test_bfloat16_is_opaque_to_numpy_and_so_here(tmp_path: Path) -> None:
    array = np.ones((4, 2), ml_dtypes.bfloat16)
    (span,) = scan(saved(array), tmp_path / "w.npy").spans
    assert (span.dtype, span.shape, span.length) == ("<V2", (4, 2), 16)


@pytest.mark.parametrize("shape", [(), (7,), (0, 4), (1, 1), (2, 3, 4)])
def test_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.zeros(shape, "f4")
    (span,) = scan(saved(array), tmp_path / "w.npy").spans
    assert span.shape == shape
    assert span.length == array.nbytes


def test_fortran_order_is_the_shape_of_memory(tmp_path: Path) -> None:
    array = np.asfortranarray(RNG.standard_normal((3, 5, 2)).astype("f4"))
    content = saved(array)
    assert b"'fortran_order': True" in content
    (span,) = scan(content, tmp_path / "w.npy").spans
    assert span.shape == (2, 5, 3)
    assert content[span.offset :] == array.T.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, "x"], object),
        np.zeros(3, [("a", "f4"), ("b", "i8")]),
        np.array(["text"]),
        np.array([b"text"]),
        np.array(["2026-11-21"], "M8[D]"),
        np.zeros(3, "V99"),
    ],
)
def test_what_is_not_numbers_is_carried(array: np.ndarray, tmp_path: Path) -> None:
    content = saved(array)
    assert scan(content, tmp_path / "w.npy") == Scan(len(content), ())


def written(header: str, data: bytes = b"\0" * 64, version: int = 1) -> bytes:
    raw = header.encode("latin-1")
    length = len(raw).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + raw + data


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }\n"


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        "{'descr':'<f4','fortran_order':False,'shape':(4,4)}",
        "{'shape': (16L,), 'fortran_order': False, 'descr': '<f4'}   \n",
    ],
)
def test_other_spellings(header: str, tmp_path: Path) -> None:
    (span,) = scan(written(header), tmp_path / "w.npy").spans
    assert span.length == 64


@pytest.mark.parametrize(
    "content",
    [
        written(GOOD.replace("False", "__import__('os')")),
        written(GOOD.replace("(4, 4)", "(4)")),
        written(GOOD.replace("(4, 4)", "(-4, -4)")),
        written(GOOD.replace("(4, 4)", "(4, , 4)")),
        written(GOOD.replace("(4, 4)", "[4, 4]")),
        written(GOOD.replace("<f4", "<f0")),
        written(GOOD.replace("<f4", "<f17")),
        written(GOOD.replace("<f4", "<é4")),
        written(GOOD.replace("'descr'", "'shape'")),
        written(GOOD.replace("}", "'shape': (4, 4)}")),
        written("{" * 9000),
        written("(" * 9000),
        written(GOOD.replace("(4, 4)", f"({'1, ' * 65})")),
        written("{'descr': '<f4'," + " " * 9000 + "'x"),
        written(GOOD[:-2] + " " * 60_000),
        written(GOOD, version=4),
        written(GOOD, version=0),
    ],
)
def test_what_numpy_would_not_write_is_carried(content: bytes, tmp_path: Path) -> None:
    assert scan(content, tmp_path / "w.npy") == Scan(len(content), ())


@pytest.mark.parametrize(
    "header",
    [
        GOOD.replace("(4, 4)", "(4, 5)"),
        GOOD.replace("(4, 4)", f"({2**63 - 1}, {2**63 - 1})"),
        GOOD.replace("(4, 4)", f"({'9' * 18}, {'9' * 18}, {'9' * 18})"),
    ],
)
def test_lies_about_sizes(header: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="bytes") as caught:
        scan(written(header), tmp_path / "w.npy")
    assert caught.value.file == "shown/w.npy"


def test_every_truncation_of_an_array(tmp_path: Path) -> None:
    content = saved(np.ones((3, 5), "f4"))
    for length in range(8, len(content)):
        with pytest.raises(FormatError):
            scan(content[:length], tmp_path / "w.npy")
    for length in range(8):
        part = content[:length]
        if npy.matches("w.npy", part):
            with pytest.raises(FormatError):
                scan(part, tmp_path / "w.npy")
    # More than the header says is carried: arrays may follow each other.
    (span,) = scan(2 * content, tmp_path / "w.npy").spans
    assert span.length == 60


ARRAYS = {
    "weights": RNG.standard_normal((8, 64)).astype("f4"),
    "half/inner": RNG.standard_normal((8, 64)).astype("f2"),
    "ids": np.arange(5),
    "text": np.array(["x"]),
    "none": np.zeros((0, 3), "f4"),
}


def archived(**options) -> bytes:
    out = io.BytesIO()
    save = np.savez_compressed if options.pop("compressed", False) else np.savez
    save(out, **(options or ARRAYS))
    return out.getvalue()


def test_archives(tmp_path: Path) -> None:
    content = archived()
    found = scan(content, tmp_path / "w.npz", npz)
    assert {s.name: (s.dtype, s.shape) for s in found.spans} == {
        "weights": ("F32", (8, 64)),
        "half/inner": ("F16", (8, 64)),
        "ids": ("I64", (5,)),
    }
    for span in found.spans:
        assert content[span.offset : span.offset + span.length] == ARRAYS[span.name].tobytes()
    assert len(found.checks) == 3
    assert found == npz.scan(str(tmp_path / "w.npz"), "shown/w.npz")
    names = [s.name for f in scan_model(str(tmp_path / "w.npz")).files for s in f.spans]
    assert names == ["weights", "half/inner", "ids"]


def test_compressed_archives_are_carried(tmp_path: Path) -> None:
    content = archived(compressed=True, a=np.zeros((100, 100)))
    assert scan(content, tmp_path / "w.npz", npz) == Scan(len(content), ())


def test_every_truncation_of_an_archive(tmp_path: Path) -> None:
    content = archived(a=np.ones((3, 5), "f4"))
    for length in range(len(content)):
        with pytest.raises(FormatError):
            scan(content[:length], tmp_path / "w.npz", npz)


def test_an_array_that_is_larger_than_its_member(tmp_path: Path) -> None:
    content = archived(a=np.ones((3, 5), "f4"))
    with pytest.raises(FormatError, match="80 or more") as caught:
        scan(content.replace(b"(3, 5), }", b"(4, 5), }"), tmp_path / "w", npz)
    assert "a.npy" in str(caught.value)


def check_any(content: bytes, path: Path, module) -> None:
    try:
        found = scan(content, path, module)
    except FormatError:
        return
    assert all(0 <= s.offset <= s.offset + s.length <= len(content) for s in found.spans)


@pytest.mark.parametrize("module", [npy, npz])
def test_flipped_bits(module, tmp_path: Path) -> None:
    content = saved(ARRAYS["half/inner"]) if module is npy else archived()
    rng = random.Random(9)
    for _ in range(2000):
        raw = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(8 * min(len(raw), 400 if module is npy else len(raw)))
            raw[at // 8] ^= 1 << at % 8
        check_any(bytes(raw), tmp_path / "any", module)


@given(st.binary(max_size=150))
def test_any_header(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npy"
    check_any(b"\x93NUMPY\x01\0" + data, path, npy)
    at = len(data) % 60
    header = GOOD.encode()
    check_any(written((header[:at] + data + header[at:]).decode("latin-1")), path, npy)
