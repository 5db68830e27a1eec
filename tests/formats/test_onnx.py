"""ONNX: agreement with the official library, and attacks."""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from p2u.errors import DiskError, FormatError, P2UError
from p2u.formats import protobuf, reader, scan_model
from p2u.formats.onnx import DTYPES, scan
from p2u.types import TensorSpan

onnx = pytest.importorskip("onnx")

import onnx_models  # noqa: E402
from hostile_files import check_refused, damaged, flipped  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

#: The library's own list, so that a type it learns is not missed here.
NOT_RAW = {"UNDEFINED", "STRING"}
#: Newer than what is to be expected of a reader: opaque under a number.
LATER = {"FLOAT6E2M3", "FLOAT6E3M2"}


def contents(path: Path, spans: tuple[TensorSpan, ...]) -> Counter[Any]:
    """Dtype, shape and bytes of all spans; their files lie relative to the model."""
    return Counter(
        (
            span.dtype,
            span.shape,
            (path.parent / span.file).read_bytes()[span.offset : span.offset + span.length],
        )
        for span in spans
    )


def wanted(model: Any, folder: Path) -> Counter[Any]:
    """The same by the official library: of all tensors whose bytes lie somewhere as they are."""
    found: Counter[Any] = Counter()
    for t in onnx_models.all_tensors(model):
        if t.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in t.external_data}
            at = int(entries.get("offset", 0))
            raw = (folder / entries["location"]).read_bytes()[at : at + int(entries["length"])]
        elif t.HasField("raw_data"):
            raw = t.raw_data
        else:
            raw = struct.pack(f"<{len(t.float_data)}f", *t.float_data)
            raw += struct.pack(f"<{len(t.double_data)}d", *t.double_data)
        if raw and t.data_type != TensorProto.STRING:
            found[DTYPES[t.data_type][0], tuple(t.dims), raw] += 1
    return found


def check(path: Path) -> tuple[TensorSpan, ...]:
    """Compare a file's spans with the library's tensors."""
    found = scan(str(path), path.name)
    model = onnx.load(path, load_external_data=False)
    assert found.size == path.stat().st_size
    assert contents(path, found.spans) == wanted(model, path.parent)
    return found.spans


@pytest.mark.parametrize("name", onnx_models.REAL)
def test_real_models(name: str) -> None:
    path = onnx_models.real(name)
    spans = check(path)
    named = {t.name for t in onnx.load(path).graph.initializer if t.HasField("raw_data")}
    assert named <= {span.name for span in spans}
    # And nearly all of the file is tensors.
    assert sum(span.length for span in spans) > 0.9 * path.stat().st_size


def test_tensors_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "all.onnx"
    model = onnx_models.everything()
    onnx.save(model, path)
    spans = check(path)
    by_name = {span.name: span for span in spans}
    assert by_name["packed"].dtype == "F32"
    assert by_name["double"].dtype == "F64"
    assert by_name["complex"].dtype == "C64"
    for kind, (bits, dtype) in onnx_models.KINDS.items():
        span = by_name[f"raw.{kind}"]
        assert (span.dtype, span.length) == (dtype, -(-63 * bits // 8))
    # Tensors without a name are called after the node's output; bodies have names of their own.
    assert {"scalar", "l.many", "f", "sparse.values"} <= set(by_name)
    assert [span.name for span in spans].count("inner.w") == 4
    # Elements as varints or strings, and none at all.
    assert not {"varints", "halves", "words", "none"} & set(by_name)
    names = [span.name for span in scan_model(str(path)).spans]
    assert len(set(names)) == len(names) == len(spans)
    assert "inner.w#4" in names


def test_every_type_of_the_library_is_known() -> None:
    kinds = {v.name: v.number for v in TensorProto.DataType.DESCRIPTOR.values}
    assert set(DTYPES) >= {n for name, n in kinds.items() if name not in NOT_RAW | LATER}


@pytest.mark.parametrize("location", ["model.onnx_data", "weights/all.bin", "a/b/c"])
def test_external_data(tmp_path: Path, location: str) -> None:
    model = onnx_models.everything()
    path = onnx_models.externalised(model, tmp_path, "model.onnx", location)
    check(path)
    (tmp_path / "beside.txt").write_text("is not part of it")
    alone = scan_model(str(path))
    assert {file.path for file in alone.files} == {"model.onnx", location}
    together = scan_model(str(tmp_path))
    assert {file.path for file in together.files} == {"model.onnx", location, "beside.txt"}
    assert alone.spans == together.spans
    assert "weight" in {span.name for span in alone.spans if span.file == location}


def test_external_data_in_a_folder_and_shared(tmp_path: Path) -> None:
    # Hugging Face style: onnx/model.onnx, and a second model on the same data.
    folder = tmp_path / "onnx"
    folder.mkdir()
    path = onnx_models.externalised(onnx_models.everything(), folder, "model.onnx", "weights.bin")
    (folder / "with_past.onnx").write_bytes(path.read_bytes())
    model = scan_model(str(tmp_path))
    sizes = {file.path: len(file.spans) for file in model.files}
    alone = scan_model(str(path))
    assert sizes["onnx/weights.bin"] == sum(s.file == "weights.bin" for s in alone.spans)
    assert sizes["onnx/model.onnx"] == sizes["onnx/with_past.onnx"]


def external(
    folder: Path, location: str, shape: tuple[int, ...] = (4, 8), **entries: object
) -> Path:
    """A model with one tensor of external data."""
    t = TensorProto(name="w", data_type=1, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        t.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], [t])).SerializeToString())
    return path


def test_external_data_without_offset_and_length(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(200))
    (span,) = scan(str(external(tmp_path, "./w.bin")), "sub/m.onnx").spans
    assert (span.file, span.offset, span.length) == ("sub/w.bin", 0, 128)
    (span,) = scan(str(external(tmp_path, "w.bin", offset=72)), "m.onnx").spans
    assert (span.offset, span.length) == (72, 128)


@pytest.mark.parametrize(
    "location",
    [
        *("../w.bin", "sub/../../w.bin", "/etc/passwd", "", ".", "..", "sub//w.bin", "sub/"),
        *("C:w.bin", "..\\w.bin", "\\\\host\\w.bin", "w\0.bin", "m.onnx", "./m.onnx"),
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (folder, folder / "sub", tmp_path):
        (place / "w.bin").write_bytes(bytes(200))
    with pytest.raises((FormatError, DiskError)) as caught:
        scan(str(external(folder, location)), "m.onnx")
    assert caught.value.tensor == "w"
    assert caught.value.hint


def test_external_data_through_links(tmp_path: Path) -> None:
    folder, blobs = tmp_path / "model", tmp_path / "blobs"
    folder.mkdir()
    blobs.mkdir()
    (blobs / "secret").write_bytes(bytes(200))
    path = external(folder, "w.bin")
    (folder / "w.bin").symlink_to(blobs / "secret")
    with pytest.raises(FormatError, match="leads out of the folder"):
        scan(str(path), "m.onnx")
    (folder / "link").symlink_to(blobs)
    with pytest.raises(FormatError, match="leads out of the folder"):
        scan(str(external(folder, "link/secret")), "m.onnx")
    # Hugging Face's cache: the model and its data are links to one folder.
    path = external(folder, "w.bin")
    path.rename(blobs / "digest")
    path.symlink_to(blobs / "digest")
    (span,) = scan(str(path), "m.onnx").spans
    assert (span.file, span.length) == ("w.bin", 128)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"offset": 73}, "are not all in w.bin"),
        ({"offset": 2**62}, "are not all in w.bin"),
        ({"length": 127}, "takes 128 bytes, it has 127"),
        ({"length": 129}, "takes 128 bytes, it has 129"),
        ({"offset": -1}, "is not a size"),
        ({"offset": "1e3"}, "is not a size"),
        ({"offset": "9" * 5000}, "is not a size"),
        ({"offset": "\u0663"}, "is not a size"),
        ({"length": ""}, "is not a size"),
        ({"shape": (2**40,)}, "are not all in w.bin"),
        ({"shape": (2**40, 2**40)}, "beyond 2"),
    ],
)
def test_external_data_that_lies(tmp_path: Path, entries: dict[str, Any], expected: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(200))
    with pytest.raises(FormatError, match=expected):
        scan(str(external(tmp_path, "w.bin", **entries)), "m.onnx")


def test_missing_external_data(tmp_path: Path) -> None:
    path = external(tmp_path, "gone.bin")
    for source in (path, tmp_path):
        with pytest.raises(DiskError, match=r"gone\.bin.*not complete without it"):
            scan_model(str(source))
    (tmp_path / "gone.bin").mkdir()
    with pytest.raises(DiskError, match=r"gone\.bin"):
        scan_model(str(path))
    (tmp_path / "gone.bin").rmdir()
    # What is left out is no part of a model directory.
    (tmp_path / "._w.bin").write_bytes(bytes(200))
    external(tmp_path, "._w.bin")
    with pytest.raises(FormatError, match="not a file of the model"):
        scan_model(str(tmp_path))


def one(**fields: Any) -> bytes:
    """A model whose only initializer has these fields."""
    t = TensorProto(**fields)
    return helper.make_model(helper.make_graph([], "g", [], [], [t])).SerializeToString()


def nested(depth: int) -> bytes:
    """Bodies within bodies: graph, node, attribute, graph, ..."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


# Name, file, a part of the message.
ATTACKS: list[tuple[str, bytes, str]] = [
    ("empty file", b"", "it has no graph"),
    ("git lfs pointer", b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "git lfs pull"),
    ("text", b"ir_version: 8\n", "no protobuf field"),
    ("zip", b"PK\x03\x04" + bytes(60), ""),
    ("zeros", bytes(100), "no protobuf field at byte 0"),
    ("group", b"\x0b\x0c", "no protobuf field"),
    ("no graph", b"\x08\x08", "it has no graph"),
    ("graph beyond the end", b"\x3a\x05abc", "states 5 bytes, 3 are left"),
    ("length of 2**63", b"\x3a" + b"\xff" * 8 + b"\x7f", "are left"),
    ("length of 2**64 - 1", b"\x3a" + b"\xff" * 9 + b"\x01", "are left"),
    ("varint above 64 bits", b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
    ("varint of 11 bytes", b"\x08" + b"\x80" * 10 + b"\x01", "more than 64 bits"),
    ("endless varint", b"\x08" + b"\x80" * 100, "more than 64 bits"),
    ("cut varint", b"\x08\x80", "cut off"),
    ("field number 0", b"\x02\x00", "no protobuf field"),
    ("field number too large", b"\xfa\xff\xff\xff\xff\x01\x00", "no protobuf field"),
    ("raw data too short", one(name="w", data_type=1, dims=[4], raw_data=b"x" * 15), "takes 16"),
    ("raw data too long", one(name="w", data_type=1, dims=[4], raw_data=b"x" * 17), "takes 16"),
    ("4-bit", one(name="w", data_type=22, dims=[5], raw_data=b"xx"), "takes 3 bytes, it has 2"),
    ("float data", one(name="w", data_type=1, dims=[4], float_data=[1.0]), "takes 16 bytes"),
    ("negative", one(name="w", data_type=1, dims=[-1, -4], raw_data=b"x" * 16), "no shape"),
    ("huge", one(name="w", data_type=1, dims=[2**62] * 3, raw_data=b"x"), "beyond 2"),
    ("huge zero", one(name="w", data_type=1, dims=[2**62] * 3 + [0], raw_data=b"x"), "beyond 2"),
    ("many dims", one(name="w", data_type=1, dims=[1] * 1025, raw_data=b"x" * 4), "no shape"),
    ("long name", one(name="w" * 70_000, data_type=1, dims=[1], raw_data=b"x" * 4), "70000 bytes"),
    ("deep", nested(33), "within each other"),
    ("very deep", nested(3000), "within each other"),
]


@pytest.mark.parametrize(("name", "content", "expected"), ATTACKS, ids=[a[0] for a in ATTACKS])
def test_attack_is_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    check_refused(scan, tmp_path / "x.onnx", content, expected)


def test_odd_but_valid(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(nested(32))
    assert scan(str(path), "x").spans == ()
    # Unknown types have no length that could be wrong; a type may come after the data.
    later = one(name="w", data_type=77, dims=[5], raw_data=b"abc")
    path.write_bytes(later + one(name="w", data_type=1, dims=[1], raw_data=b"abcd"))
    found = [(s.dtype, s.length) for s in scan(str(path), "x").spans]
    assert found == [("ONNX_77", 3), ("F32", 4)]
    # Elements that are not packed, or in two runs, are carried.
    whole = one(name="w", data_type=1, dims=[2], float_data=[1.0, 2.0])
    assert len(whole) < 100
    packed = b"\x22\x08" + struct.pack("<2f", 1, 2)
    for other in (
        b"\x25" + struct.pack("<f", 1) + b"\x25" + struct.pack("<f", 2),
        b"\x22\x04" + struct.pack("<f", 1) + b"\x25" + struct.pack("<f", 2),
    ):
        assert whole.count(packed) == 1
        content = whole.replace(packed, other.ljust(len(packed), b"\0")[: len(packed)])
        if len(other) == len(packed):
            path.write_bytes(content)
            assert list(onnx.load(path).graph.initializer[0].float_data) == [1.0, 2.0]
            assert scan(str(path), "x").spans == ()
    # The last of several raw_data counts, as in protobuf.
    twice = one(name="w", data_type=1, dims=[1], raw_data=b"abcd")
    graph = twice[twice.index(b"\x3a") :]
    path.write_bytes(twice + graph)
    assert len(scan(str(path), "x").spans) == 2
    assert len(onnx.load(path).graph.initializer) == 2


def test_too_much_structure(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x08\x01" * 1001)
    with reader.reading(str(path), "x") as found:
        wire = protobuf.Wire(found, max_fields=1000)
        with pytest.raises(FormatError, match="more than 1000 protobuf fields"):
            list(wire.fields(0, found.size))


def test_fields_across_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever lies at the window's end: the same spans as with one that holds all.
    path = tmp_path / "x.onnx"
    onnx.save(onnx_models.everything(), path)
    expected = scan(str(path), "x")
    for size in range(17, 60):
        monkeypatch.setattr(reader, "WINDOW", size)
        assert scan(str(path), "x") == expected


def test_the_weights_are_not_read(tmp_path: Path) -> None:
    # A sparse file of 200 GB: reading it would take minutes.
    length = 200 * 10**9
    number = b""
    for shift in range(0, 42, 7):
        number += bytes([length >> shift & 127 | (128 if shift < 35 else 0)])
    inner = b"\x08" + number + b"\x10\x03\x4a" + number  # dims, INT8, raw_data

    def framed(tag: int, header: bytes, total: int) -> bytes:
        out = bytes([tag])
        while total > 127:
            out += bytes([total & 127 | 128])
            total >>= 7
        return out + bytes([total]) + header

    tensor = framed(0x2A, inner, len(inner) + length)
    graph = framed(0x3A, tensor, len(tensor) + length)
    path = tmp_path / "x.onnx"
    with path.open("wb") as stream:
        stream.write(graph)
        stream.truncate(len(graph) + length)
    (span,) = scan(str(path), "x").spans
    assert (span.offset, span.length) == (len(graph), length)


def small() -> bytes:
    """A small model with a body, a constant and several types."""
    body = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=helper.make_tensor("", 1, [2], [1.0, 2.0]))],
        "body", [], [helper.make_tensor_value_info("c", 1, [2])],
    )  # fmt: skip
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)]
    tensors = [onnx_models.floats("a", (2, 3)), onnx_models.tensor("b", 3, (5,), b"\1\2\3\4\5")]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)).SerializeToString()


def outcome(path: Path, content: bytes) -> tuple[TensorSpan, ...] | None:
    """The spans of these bytes, all within them and disjoint; None if they are refused."""
    path.write_bytes(content)
    try:
        found = scan_model(str(path))
    except P2UError:
        return None
    covered = 0
    for span in found.spans:
        assert covered <= span.offset <= span.offset + span.length <= len(content)
        covered = span.offset + span.length
    return found.spans


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    whole = small()
    everything = outcome(path, whole)
    assert everything is not None and len(everything) == 4
    refused = 0
    for length in range(len(whole)):
        spans = outcome(path, whole[:length])
        refused += spans is None
        # The graph is one message: what is cut within it is refused. The fields behind it are
        # few, and without them all tensors are still there.
        assert spans is None or spans == everything
    assert refused > 0.8 * len(whole)


def damage(whole: bytes, rng: random.Random) -> bytes:
    """The file damaged, by bytes that mean something."""
    return damaged(whole, rng, [0, 1, 127, 128, 255, 8, 10, 34, 58], len(whole))


@pytest.mark.slow
def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    whole = small()
    rng = random.Random(5)
    for content in flipped(whole, rng, len(whole)):
        outcome(path, content)
    for _ in range(1000):
        outcome(path, damage(whole, rng))


@pytest.mark.fuzz
def test_much_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    rng = random.Random(6)
    for whole in (small(), onnx_models.everything().SerializeToString()):
        for _ in range(5_000):
            outcome(path, damage(whole, rng))
