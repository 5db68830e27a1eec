"""GGUF: agreement with the official package, states that it opens, and attacks."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import kit
import ml_dtypes
import numpy as np
import pytest
from hostile_files import check_refused, damaged, flipped

import p2u
from p2u.errors import FormatError, P2UError, UnsupportedError
from p2u.formats import scan_model
from p2u.formats.gguf import TYPES, matches, scan

gguf = pytest.importorskip("gguf")
Kind = gguf.GGMLQuantizationType


def reader(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape (outermost first) and bytes of each tensor by the official package."""
    return {
        t.name: (t.tensor_type.name, tuple(map(int, t.shape[::-1])), t.data.tobytes())
        for t in gguf.GGUFReader(path).tensors
    }


def check(path: Path) -> None:
    """Compare a file's spans with the package's tensors."""
    found = scan(str(path), "m.gguf")
    content = path.read_bytes()
    assert found.size == len(content)
    assert reader(path) == {
        span.name: (span.dtype, span.shape, content[span.offset : span.offset + span.length])
        for span in found.spans
    }


def write(
    path: Path,
    tensors: dict[str, tuple[np.ndarray, Any]],
    alignment: int | None = None,
    **more: Any,
) -> Path:
    """A file with metadata of all kinds; a tensor's type is one that the package quantises to."""
    writer = gguf.GGUFWriter(path, "bert", **more)
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_uint8("test.u8", 1)
    writer.add_int64("test.i64", -1)
    writer.add_float64("test.f64", 0.5)
    writer.add_bool("test.bool", True)
    writer.add_string("test.text", "a text of some length")
    writer.add_array("test.numbers", [1, 2, 3])
    writer.add_array("tokenizer.ggml.tokens", ["[PAD]", "the", "of", ""])
    writer.add_array("test.nested", [[1, 2], [3]])
    for name, (values, kind) in tensors.items():
        if kind == Kind.F32:
            raw = values.astype(np.float32)
        elif values.dtype.kind == "f":
            raw = gguf.quantize(values.astype(np.float32), kind)
        else:
            raw = values
        # Plain integers and halves are told apart by their dtype, blocks by the type.
        plain = kind in (Kind.F32, Kind.F16) or raw.dtype.kind == "i"
        writer.add_tensor(name, raw, raw_dtype=None if plain else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_block_sizes_are_those_of_the_package() -> None:
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        found = TYPES[kind.value]
        assert (found.name, found.elems, found.size) == (kind.name, *sizes)


@pytest.mark.parametrize("alignment", [32, 8, 256])
def test_all_that_the_package_writes(tmp_path: Path, alignment: int) -> None:
    kinds = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_1, Kind.TQ1_0]
    tensors = {f"blk.{n}.{k.name}": (values(3, 256, seed=n), k) for n, k in enumerate(kinds)}
    tensors["odd"] = (values(7), Kind.F32)
    tensors["deep"] = (values(2, 3, 5, 7), Kind.F16)
    tensors["ints"] = (np.arange(10, dtype=np.int64), Kind.I64)
    tensors["shorts"] = (np.arange(6, dtype=np.int16).reshape(2, 3), Kind.I16)
    path = tmp_path / "m.gguf"
    write(path, tensors, alignment)
    check(path)
    dtypes = {span.name: span.dtype for span in scan(str(path), "m").spans}
    assert dtypes["blk.3.Q8_0"] == "Q8_0"
    assert dtypes["ints"] == "I64"


@pytest.fixture(scope="module")
def minilm() -> dict[str, np.ndarray]:
    """The real weights of all-MiniLM-L6-v2 under llama.cpp's names."""
    from safetensors.numpy import load_file

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, 6)
    out = {}
    for name, value in load_file(kit.minilm_weights()).items():
        short = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if short:
            out[short] = value
    assert len(out) > 90
    return out


def mixed(tensors: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, Any]]:
    """Each layer in another type; vectors stay F32, as llama.cpp keeps them."""
    kinds = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.F32, Kind.F16]
    out = {}
    for name, value in tensors.items():
        layer = int(name.split(".")[1]) if name.startswith("blk.") else 3
        out[name] = (value, kinds[layer] if value.ndim > 1 else Kind.F32)
    return out


def test_every_state_of_a_real_model(minilm: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = write(tmp_path / "minilm.gguf", mixed(minilm))
    check(path)
    p2u.pack(path, tmp_path / "package", jobs=2)
    original = reader(path)
    for state in ("base", "8bit", "exact"):
        p2u.pull(tmp_path / "package", tmp_path / state, until=state)
        found = reader(tmp_path / state / path.name)
        assert found.keys() == original.keys()
        for name, (kind, shape, raw) in found.items():
            assert (kind, shape) == original[name][:2]
            if kind not in ("F32", "F16", "BF16") or len(shape) < 2 or state == "exact":
                assert raw == original[name][2], name
                continue
            assert raw != original[name][2], name
            dtype = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[kind]
            here, there = (
                np.frombuffer(r, dtype).astype(np.float64) for r in (raw, original[name][2])
            )
            noise = np.square(here - there).sum() / np.square(there).sum()
            assert noise < (0.03 if state == "base" else 2e-4), name
    assert (tmp_path / "exact" / path.name).read_bytes() == path.read_bytes()
    first = gguf.GGUFReader(path).fields.keys()
    assert first == gguf.GGUFReader(tmp_path / "base" / path.name).fields.keys()


def test_split(tmp_path: Path) -> None:
    tensors = {f"blk.{n}.ffn_up.weight": (values(64, 64, seed=n), Kind.F32) for n in range(6)}
    write(tmp_path / "m.gguf", tensors, split_max_tensors=2)
    (tmp_path / "m.gguf").unlink(missing_ok=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"m-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    for name in names:
        check(tmp_path / name)
    model = scan_model(str(tmp_path))
    assert {span.name for span in model.spans} == set(tensors)
    p2u.pack(tmp_path, tmp_path.parent / "package", jobs=1)
    p2u.pull(tmp_path.parent / "package", tmp_path.parent / "out")
    for name in names:
        assert (tmp_path.parent / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    (tmp_path / names[1]).unlink()
    with pytest.raises(FormatError, match="1 of the 3 files of the model are missing") as caught:
        scan_model(str(tmp_path))
    assert "number 2" in str(caught.value)


# By hand: what the package does not write.

U32, TEXT, ARRAY = 4, 8, 9


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def info(
    name: bytes = b"w",
    dims: tuple[int, ...] = (8,),
    kind: int = 0,
    offset: int = 0,
) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def made(
    infos: tuple[bytes, ...] = (),
    metadata: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(infos), len(metadata))))
    head += b"".join(metadata) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


ONE = made((info(),), data=bytes(range(32)))
DEEP = text(b"k") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 20


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


# Name, file, a part of the message.
ATTACKS: list[tuple[str, bytes, str]] = [
    ("empty file", b"", "not a GGUF file"),
    ("git lfs pointer", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("zip", b"PK\x03\x04" + bytes(60), "not a GGUF file"),
    ("only magic", b"GGUF", "not a GGUF file"),
    ("no counts", b"GGUF\3\0\0\0", "ends at byte 8"),
    ("many tensors", made(counts=(2**63, 0)), "tensors at byte 8"),
    ("all tensors", made(counts=(2**64 - 1, 0)), "tensors at byte 8"),
    ("tensors that are not there", made(counts=(3, 0), data=bytes(32)), "states 3 tensors"),
    ("much metadata", made(counts=(0, 2**40)), "metadata at byte 16"),
    ("metadata that is not there", made(counts=(0, 9)), "metadata at byte 16"),
    ("long key", made((), (key(b"k" * 70_000, 0, b"\0"),)), "70000 bytes of a key"),
    ("key beyond the end", made((), (struct.pack("<Q", 2**62) + bytes(90),)), "bytes of a key"),
    ("text beyond the end", made((), (key(b"k", TEXT, b"\xff" * 8),)), "bytes of text"),
    ("unknown type", made((), (key(b"k", 13, b"\0" * 9),)), "unknown type 13"),
    ("array beyond the end", made((), (key(b"k", ARRAY, struct.pack("<IQ", 12, 2**61)),)), "num"),
    ("texts beyond the end", made((), (key(b"k", ARRAY, struct.pack("<IQ", 8, 2**50)),)), "items"),
    ("array of unknown", made((), (key(b"k", ARRAY, struct.pack("<IQQ", 99, 1, 0)),)), "type 99"),
    ("deep arrays", made((), (DEEP,)), "nested too deeply"),
    ("alignment 0", made((), (key(b"general.alignment", U32, bytes(4)),)), "power of two: 0"),
    ("alignment 48", made((), (key(b"general.alignment", U32, b"0\0\0\0"),)), "power of two: 48"),
    ("alignment of another type", made((), (key(b"general.alignment", 5, b" \0\0\0"),)), "power"),
    ("long name", made((info(b"n" * 70_000),), data=bytes(32)), "70000 bytes of a tensor's name"),
    ("many dims", made((info(dims=(1,) * 65),), data=bytes(32)), "65 dimensions"),
    ("2**32 dims", made((text(b"w") + b"\xff" * 4 + bytes(90),)), "4294967295 dimensions"),
    ("too short", ONE[:-1], "takes 32 bytes, 31 are there"),
    ("huge", made((info(dims=(2**62, 2**62)),), data=bytes(32)), "beyond 2^63"),
    ("huge zero", made((info(dims=(0, 2**62, 2**62)),), data=bytes(32)), "beyond 2^63"),
    ("not whole blocks", made((info(dims=(8,), kind=8),), data=bytes(34)), "no whole blocks"),
    ("whole in all, not by row", made((info(dims=(16, 2), kind=8),), data=bytes(34)), "no whole"),
    ("scalar block", made((info(dims=(), kind=8),), data=bytes(34)), "no whole blocks"),
    ("offset beyond the end", made((info(offset=64),), data=bytes(32)), "beyond the end"),
    ("offset of 2**64 - 32", made((info(offset=2**64 - 32),), data=bytes(32)), "beyond the end"),
    ("offset not aligned", made((info(offset=4),), data=bytes(64)), "not aligned"),
    ("overlap", made((info(), info(b"v", (16,))), data=bytes(64)), "0 are there"),
    ("overlap behind", made((info(dims=(9,)), info(b"v", offset=32)), data=bytes(64)), "32 are"),
    ("tensors cut off", made((info(),))[:-4], "before its tensors"),
]


@pytest.mark.parametrize(("name", "content", "expected"), ATTACKS, ids=[a[0] for a in ATTACKS])
def test_attack_is_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    check_refused(scan, tmp_path / "x.gguf", content, expected)


def test_versions_and_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for version in (2, 3):
        path.write_bytes(made((info(),), data=bytes(32), version=version))
        assert [span.length for span in scan(str(path), "x").spans] == [32]
    for version, expected in ((1, "version 1"), (4, "version 4"), (3 << 24, "big-endian")):
        path.write_bytes(made((info(),), data=bytes(32), version=version))
        with pytest.raises(UnsupportedError, match=expected):
            scan_model(str(path))
    write(path, {"w": (values(2, 32), Kind.F32)}, endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(UnsupportedError, match="big-endian"):
        scan_model(str(tmp_path))


def test_odd_but_valid(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    # An unknown type reaches to the next tensor; the infos need no order; two may be empty.
    infos = (info(b"b", (8,), 0, 64), info(b"a", (3, 5), 99), info(b"e", (0,), 0, 96))
    path.write_bytes(made(infos, data=bytes(96)))
    found = [(s.name, s.dtype, s.shape, s.length) for s in scan(str(path), "x").spans]
    expected = [("a", "GGML_99", (5, 3), 64), ("b", "F32", (8,), 32), ("e", "F32", (0,), 0)]
    assert found == expected
    # Nested arrays, texts of no length, a scalar.
    nested = struct.pack("<IQ", ARRAY, 2) + struct.pack("<IQ", TEXT, 1) + text(b"")
    nested += struct.pack("<IQ3I", U32, 3, 1, 2, 3)
    path.write_bytes(made((info(dims=()),), (key(b"k", ARRAY, nested),), data=bytes(4)))
    assert [(s.shape, s.length) for s in scan(str(path), "x").spans] == [((), 4)]
    # Vocabulary only: no tensors, and so nothing to pack.
    path.write_bytes(made())
    with pytest.raises(FormatError, match="no tensors"):
        scan_model(str(path))


def test_a_vocabulary_longer_than_the_window(tmp_path: Path) -> None:
    rng = random.Random(3)
    lengths = [rng.choice([0, 1, 5, 9, 40, 70_000 if k % 1000 == 7 else 3]) for k in range(30_000)]
    value = struct.pack("<IQ", TEXT, len(lengths)) + b"".join(text(b"t" * n) for n in lengths)
    path = tmp_path / "x.gguf"
    whole = made((info(),), (key(b"k", ARRAY, value), key(b"l", 0, b"\1")), data=bytes(32))
    path.write_bytes(whole)
    (span,) = scan(str(path), "x").spans
    assert (span.offset, span.length) == (len(whole) - 32, 32)
    for cut in (len(whole) // 2, len(value) - 100, len(value) + 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            scan(str(path), "x")


def test_recognised_without_a_suffix(tmp_path: Path) -> None:
    path = tmp_path / "sha256-0123"
    path.write_bytes(ONE)
    assert len(scan_model(str(path)).spans) == 1
    assert matches("a/b.gguf", b"")
    assert not matches("notes.txt", b"GGUF is a format")


def test_the_weights_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    content = made((info(dims=(50 * 10**9,)),))
    with path.open("wb") as stream:
        stream.write(content)
        stream.truncate(len(content) + 200 * 10**9)
    (span,) = scan(str(path), "x").spans
    assert span.length == 200 * 10**9


def small(tmp_path: Path) -> bytes:
    tensors = {"a": (values(2, 32), Kind.F32), "b": (values(1, 32), Kind.Q8_0)}
    return write(tmp_path / "small.gguf", tensors).read_bytes()


def outcome(path: Path, content: bytes) -> bool:
    """Whether these bytes are accepted; if so, their spans are within them and disjoint."""
    path.write_bytes(content)
    try:
        spans = scan_model(str(path)).spans
    except P2UError:
        return False
    covered = 0
    for span in spans:
        assert covered <= span.offset <= span.offset + span.length <= len(content)
        covered = span.offset + span.length
    return True


def test_truncation_at_every_byte(tmp_path: Path) -> None:
    whole = small(tmp_path)
    path = tmp_path / "x.gguf"
    assert outcome(path, whole)
    last = max(span.offset + span.length for span in scan(str(path), "x").spans)
    for length in range(len(whole)):
        # But for the padding at the end.
        assert outcome(path, whole[:length]) is (length >= last)


def damage(whole: bytes, rng: random.Random) -> bytes:
    """The header damaged, by bytes that mean something."""
    return damaged(whole, rng, [0, 1, 8, 9, 127, 128, 255], len(whole) - 256)


@pytest.mark.slow
def test_damage(tmp_path: Path) -> None:
    whole = small(tmp_path)
    path = tmp_path / "x.gguf"
    rng = random.Random(5)
    for content in flipped(whole, rng, len(whole) - 256):
        outcome(path, content)
    for _ in range(1000):
        outcome(path, damage(whole, rng))


@pytest.mark.fuzz
def test_much_damage(tmp_path: Path) -> None:
    whole = small(tmp_path)
    rng = random.Random(6)
    for _ in range(15_000):
        outcome(tmp_path / "x.gguf", damage(whole, rng))
