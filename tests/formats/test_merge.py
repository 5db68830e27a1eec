"""Spans of several files that lie in one another."""

from __future__ import annotations

import pytest

from p2u.errors import FormatError
from p2u.formats.merge import merge, unique_names
from p2u.types import Scan, TensorSpan


def span(name: str, offset: int, length: int, file: str = "data", dtype: str = "F32") -> TensorSpan:
    return TensorSpan(name, dtype, (length // 4,), file, offset, length)


SIZES = {"a.onnx": 50, "b.onnx": 50, "data": 100}


def placed(*scans: tuple[str, list[TensorSpan]]) -> dict[str, list[tuple[str, int, int]]]:
    """The merged spans by file."""
    files = merge(SIZES, {owner: Scan(SIZES[owner], tuple(spans)) for owner, spans in scans})
    assert [(file.path, file.size) for file in files] == list(SIZES.items())
    assert all(s.file == file.path for file in files for s in file.spans)
    return {file.path: [(s.name, s.offset, s.length) for s in file.spans] for file in files}


def test_spans_go_to_the_file_they_lie_in() -> None:
    found = placed(
        ("a.onnx", [span("y", 40, 8), span("own", 4, 8, "a.onnx"), span("x", 0, 40)]),
        ("b.onnx", [span("z", 92, 8)]),
    )
    assert found == {
        "a.onnx": [("own", 4, 8)],
        "b.onnx": [],
        "data": [("x", 0, 40), ("y", 40, 8), ("z", 92, 8)],
    }


def test_the_same_bytes_twice_are_one_tensor() -> None:
    # Two exports that share their weights; one exporter also names one weight twice.
    found = placed(
        ("a.onnx", [span("x", 8, 40), span("tied", 8, 40), span("none", 8, 0)]),
        ("b.onnx", [span("onnx::MatMul_1", 8, 40)]),
    )
    assert found["data"] == [("none", 8, 0), ("x", 8, 40)]


def test_a_files_own_names_win() -> None:
    found = placed(
        ("a.onnx", [span("other", 0, 40), span("first", 40, 4)]), ("data", [span("own", 0, 40)])
    )
    assert found["data"] == [("own", 0, 40), ("first", 40, 4)]


@pytest.mark.parametrize(
    "other",
    [
        span("z", 8, 39),
        span("z", 8, 41),
        span("z", 9, 39),
        span("z", 9, 4),
        span("z", 47, 8),
        span("z", 0, 9),
        span("z", 8, 40, dtype="F16"),
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_other_overlaps_are_refused(other: TensorSpan, swap: bool) -> None:
    scans = [("a.onnx", [span("x", 8, 40)]), ("b.onnx", [other])]
    with pytest.raises(FormatError, match="overlap") as caught:
        placed(*(reversed(scans) if swap else scans))
    for name in ("a.onnx", "b.onnx", "'x'", "'z'"):
        assert name in str(caught.value)


def test_neighbours_do_not_overlap() -> None:
    found = placed(
        ("a.onnx", [span("x", 8, 40), span("end", 48, 52)]),
        ("b.onnx", [span("start", 0, 8), span("none", 48, 0)]),
    )
    assert [name for name, *_ in found["data"]] == ["start", "x", "none", "end"]


def test_an_empty_tensor_inside_another_one_is_refused() -> None:
    with pytest.raises(FormatError, match="overlap"):
        placed(("a.onnx", [span("x", 8, 40)]), ("b.onnx", [span("none", 20, 0)]))


def test_beyond_the_end_and_unknown_files() -> None:
    assert placed(("a.onnx", [span("x", 96, 4)]))["data"]
    with pytest.raises(FormatError, match="ends at byte 101 of data, which has 100"):
        placed(("a.onnx", [span("x", 97, 4)]))
    with pytest.raises(FormatError, match="in gone, which is not a file of the model") as caught:
        placed(("a.onnx", [span("x", 0, 4, "gone")]))
    assert caught.value.file == "a.onnx"
    assert caught.value.tensor == "x"


def test_names_become_unique() -> None:
    names = ["w", "b", "w", "w#2", "w", "b"]
    spans = [span(name, 4 * at, 4) for at, name in enumerate(names)]
    assert [s.name for s in unique_names(spans)] == ["w", "b", "w#3", "w#2", "w#4", "b#2"]
    assert [s.offset for s in unique_names(spans)] == [0, 4, 8, 12, 16, 20]


def test_many_equal_names_take_no_quadratic_time() -> None:
    spans = [span("w", 4 * at, 4) for at in range(200_000)]
    found = unique_names(spans)
    assert len({s.name for s in found}) == 200_000
