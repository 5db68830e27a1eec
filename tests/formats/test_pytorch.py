"""PyTorch's files: what torch.save writes is found, nothing in them is ever carried out."""

from __future__ import annotations

import io
import os
import pickle
import random
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from p2u.errors import FormatError
from p2u.formats import pytorch, scan_model
from p2u.formats.pickles import Pickle, UnknownPickleError, named_tensors
from p2u.types import Scan, TensorSpan

torch = pytest.importorskip("torch")

NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.quint8: "quint8",
}


def saved(value: Any, *, old: bool = False, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not old, **options)
    return out.getvalue()


def scan(content: bytes, path: Path) -> Scan:
    path.write_bytes(content)
    assert pytorch.matches(path.name, content[:64])
    return pytorch.scan(str(path), path.name)


def spans(value: Any, path: Path, **options: Any) -> dict[str, tuple[TensorSpan, bytes]]:
    """What is found in a file that holds the value, and its bytes."""
    content = saved(value, **options)
    found = scan(content, path)
    assert found.size == len(content)
    covered = 0
    for span in sorted(found.spans, key=lambda span: span.offset):
        assert covered <= span.offset
        covered = span.offset + span.length
    assert bool(found.checks) == (bool(found.spans) and not options.get("old"))
    return {s.name: (s, content[s.offset : s.offset + s.length]) for s in found.spans}


def raw(tensor: Any) -> bytes:
    """The elements of a tensor, in its order."""
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def numbers(dtype: Any, *shape: int) -> Any:
    return (torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape) % 100).to(dtype)


FILES = pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])


@FILES
@pytest.mark.parametrize("dtype", [d for d in NAMES if d is not torch.quint8], ids=str)
def test_element_types(dtype: Any, old: bool, tmp_path: Path) -> None:
    tensor = numbers(dtype, 3, 5)
    ((name, (span, data)),) = spans({"w": tensor}, tmp_path / "m.pt", old=old).items()
    assert (name, span.dtype, span.shape) == ("w", NAMES[dtype], (3, 5))
    assert data == raw(tensor)


@FILES
def test_names_are_paths_of_keys(old: bool, tmp_path: Path) -> None:
    value = {
        "epoch": 3,
        "lr": 0.5,
        "model": OrderedDict([("layer.0.weight", torch.ones(2, 3)), ("bias", torch.zeros(3))]),
        "list": [torch.ones(4), (torch.ones(5), None)],
        7: torch.ones(6),
        "note": "text" * 100,
        "big": 2**70,
        "set": {1, 2},
        "bytes": b"x" * 300,
    }
    found = spans(value, tmp_path / "m.pth", old=old)
    assert {name: span.shape for name, (span, _) in found.items()} == {
        "model.layer.0.weight": (2, 3),
        "model.bias": (3,),
        "list.0": (4,),
        "list.1.0": (5,),
        "7": (6,),
    }


@FILES
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(protocol: int, old: bool, tmp_path: Path) -> None:
    value = {"a": torch.ones(2, 3), "b": {"c": torch.ones(5)}, "s": {1, "x"}, "f": frozenset([2])}
    found = spans(value, tmp_path / "m.pt", old=old, pickle_protocol=protocol)
    assert {name: span.shape for name, (span, _) in found.items()} == {"a": (2, 3), "b.c": (5,)}


@FILES
def test_optimizers(old: bool, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3, 8)).sum().backward()
    optimizer.step()
    value = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    found = spans(value, tmp_path / "last.ckpt", old=old)
    assert found["model.0.weight"][1] == raw(model[0].weight)
    assert found["optimizer.state.0.exp_avg"][1] == raw(optimizer.state[model[0].weight]["exp_avg"])
    assert found["model.1.num_batches_tracked"][0].dtype == "I64"


@FILES
def test_tied_tensors_have_the_first_name(old: bool, tmp_path: Path) -> None:
    tied = torch.nn.Parameter(numbers(torch.float32, 4, 6))
    found = spans({"embed": tied, "head": tied, "again": tied.data}, tmp_path / "m.pt", old=old)
    assert [(n, s.shape) for n, (s, _) in found.items()] == [("embed", (4, 6))]


@FILES
def test_views_share_a_storage(old: bool, tmp_path: Path) -> None:
    flat = numbers(torch.float32, 100)
    value = {
        "small": flat[10:14],
        "a": flat[4:40].view(6, 6),
        "every second": flat[40:60:2],
        "b": flat[60:90].view(5, 6),
        "overlaps b": flat[80:95],
        "expanded": flat[:1].expand(50, 50),
    }
    found = spans(value, tmp_path / "m.pt", old=old)
    assert {name: (s.shape, data) for name, (s, data) in found.items()} == {
        "a": ((6, 6), raw(flat[4:40])),
        "b": ((5, 6), raw(flat[60:90])),
        next(n for n in found if n.endswith("[0:4]")): ((4,), raw(flat[:4])),
        next(n for n in found if n.endswith("[40:60]")): ((20,), raw(flat[40:60])),
        next(n for n in found if n.endswith("[90:100]")): ((10,), raw(flat[90:])),
    }
    # Together all of the storage, in any case.
    assert b"".join(d for _, d in sorted(found.values(), key=lambda f: f[0].offset)) == raw(flat)


@FILES
def test_shapes_are_in_the_order_of_memory(old: bool, tmp_path: Path) -> None:
    value = {
        "transposed": numbers(torch.float32, 3, 5).t(),
        "channels last": numbers(torch.float32, 2, 3, 4, 5).to(memory_format=torch.channels_last),
        "one": torch.ones(1, 4, 1).transpose(0, 2),
        "scalar": torch.tensor(3.0),
        "empty": torch.ones(0, 3),
    }
    found = spans(value, tmp_path / "m.pt", old=old)
    assert {name: span.shape for name, (span, _) in found.items()} == {
        "transposed": (3, 5),
        "channels last": (2, 4, 5, 3),
        "one": (1, 4, 1),
        "scalar": (),
    }


@FILES
def test_recurrent_layers_lie_in_one_storage(old: bool, tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(6, 4, 2)
    flat = torch.cat([p.detach().flatten() for p in lstm.parameters()])
    at = 0
    value = {}
    for name, p in lstm.named_parameters():
        value[name] = flat[at : at + p.numel()].view(p.shape)
        at += p.numel()
    found = spans(value, tmp_path / "m.pt", old=old)
    assert {n: s.shape for n, (s, _) in found.items()} == {n: p.shape for n, p in value.items()}


@FILES
def test_whole_modules(old: bool, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Conv2d(2, 3, 3))
    found = spans(model, tmp_path / "m.pt", old=old)
    assert {n: s.shape for n, (s, _) in found.items()} == {
        n: tuple(p.shape) for n, p in model.state_dict().items()
    }


@FILES
def test_other_kinds_of_tensors(old: bool, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.rand(4, 8), 0.1, 3, torch.quint8)
        sparse = torch.eye(5).to_sparse()
        array = torch.ones(3).numpy()
        value = {"q": quantized, "sparse": sparse, "w": torch.ones(2, 2), "t": array}
        found = spans(value, tmp_path / "m.pt", old=old)
    assert found["w"][0].shape == (2, 2)
    assert sorted(s.dtype for s, _ in found.values()) == ["F32", "F32", "I64", "quint8"]


def test_scripts(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(6, 3)
            self.register_buffer("steps", torch.arange(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + torch.ones(3)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Net(), torch.ones(1, 6)).save(str(tmp_path / "m.jit"))
    content = (tmp_path / "m.jit").read_bytes()
    found = {s.name: s for s in scan(content, tmp_path / "m.jit").spans}
    assert found["layer.weight"].shape == (3, 6)
    assert found["steps"].dtype == "I64"


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch carried-out",)


@FILES
def test_nothing_is_carried_out(old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = spans({"evil": Evil(), "w": torch.ones(2, 3)}, tmp_path / "m.bin", old=old)
    assert list(found) == ["w"]
    assert not (tmp_path / "carried-out").exists()


@FILES
def test_other_byte_orders_are_carried(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    content = saved({"w": torch.ones(2, 3)}, old=old)
    monkeypatch.undo()
    assert scan(content, tmp_path / "m.pt") == Scan(len(content), ())


def test_other_files_are_not_pytorchs(tmp_path: Path) -> None:
    content = saved({"w": torch.ones(2, 3)})
    for name, head in [
        ("m.zip", content[:64]),
        ("m.pt", b"\x80\x02}q."),
        ("m.bin", b""),
        ("m.pth", b"\x80\x02\x8a\x0a\x6c\xfc\x9c"),
    ]:
        assert not pytorch.matches(name, head)
    (tmp_path / "m.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (tmp_path / "model.bin").write_bytes(content)
    model = scan_model(str(tmp_path))
    assert [len(file.spans) for file in model.files] == [0, 1]


VALUE = {"w": torch.ones(3, 5), "v": torch.zeros(7, dtype=torch.int64), "n": [1, "x"]}


@FILES
def test_every_truncation(old: bool, tmp_path: Path) -> None:
    content = saved(VALUE, old=old)
    for length in range(40, len(content)):
        path = tmp_path / "m.pt"
        path.write_bytes(content[:length])
        try:
            found = pytorch.scan(str(path), "m.pt")
        except FormatError:
            continue
        assert old
        assert found == Scan(length, ())  # the end of its pickles is not there


@pytest.mark.slow
@FILES
def test_flipped_bits(old: bool, tmp_path: Path) -> None:
    content = saved(VALUE, old=old)
    rng = random.Random(old)
    seen = set()
    for _ in range(3000):
        data = bytearray(content)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(8 * len(data))
            data[at // 8] ^= 1 << at % 8
        (tmp_path / "m.pt").write_bytes(data)
        try:
            found = pytorch.scan(str(tmp_path / "m.pt"), "m.pt")
        except FormatError:
            seen.add("refused")
            continue
        seen.add("found" if found.spans else "carried")
        ends = [0, *(s.offset + s.length for s in found.spans)]
        starts = [*(s.offset for s in found.spans), len(data)]
        assert all(end <= start for end, start in zip(ends, starts, strict=True))
    assert seen == {"refused", "found", "carried"}


def load(code: bytes, **limits: int) -> tuple[object, Pickle]:
    reader = Pickle(code, **limits)
    return reader.load(), reader


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\x80\x02",
        b".",
        b"N",
        b"0.",
        b"1.",
        b"2.",
        b"t.",
        b"\x85.",
        b"N\x87.",
        b"h\0.",
        b"q\0.",
        b"a.",
        b"NNa.",
        b"NNNs.",
        b"(NNNd.",
        b"}(Nu.",
        b"Nb.",
        b"R.",
        b"Q.",
        b"\x93.",
        b"KKKK\x93.",
        b"I12\n.",
        b"cos\n",
        b"c" + b"x" * 2000 + b"\n\n.",
        b"X\xff\xff\xff\x7fabc.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x8b\xff\xff\xff\x7fabc.",
        b"\x8a\xff" + b"\xff" * 255 + b".",
        b"\x97.",
    ],
)
def test_malformed_pickles(code: bytes) -> None:
    with pytest.raises(UnknownPickleError):
        load(code)


def test_long_pickles_end() -> None:
    with pytest.raises(UnknownPickleError, match="too many"):
        load(b"N" * 1000 + b".", max_steps=1000)


def test_cycles_depth_and_explosions() -> None:
    def names(code: bytes) -> list[str]:
        return [name for name, _ in named_tensors(load(code)[0])]

    assert names(b"]q\0h\0a.") == []
    assert names(b")" + b"\x85" * 900 + b".") == []
    for deep in (b")" + b"\x85" * 200_000, b"]" * 100_000 + b"a" * 99_999):
        with pytest.raises(UnknownPickleError, match="nested"):
            names(deep + b".")
    # Each level holds the one below twice: 2^500 paths.
    assert names(b")" + b"2\x86" * 500 + b".") == []
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\4tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\4\x85K\1\x85t" + b"R"
    # The same tensor again and again, and below more keys than a name shows.
    assert names(b"(" + tensor + b"q\0" + b"h\0" * 1000 + b"t.") == ["0"]
    (deep,) = names(tensor + b"\x85" * 900 + b".")
    assert deep == ".".join("0" * 64)
    (long,) = names(b"}X\x10\x27\0\0" + b"k" * 10_000 + tensor + b"s.")
    assert long == "k" * 1000


def test_storages_that_contradict_each_other() -> None:
    def storage(kind: bytes, elems: int) -> bytes:
        head = b"(X\7\0\0\0storagectorch\n" + kind + b"\nX\1\0\0\x000X\3\0\0\0cpu"
        return head + b"K" + bytes([elems]) + b"tQ"

    for second in (storage(b"HalfStorage", 4), storage(b"FloatStorage", 5)):
        _, reader = load(storage(b"FloatStorage", 4) + second + b"\x86.")
        assert reader.storages == {"0": None}
    _, reader = load(storage(b"FloatStorage", 4) * 2 + b"\x86.")
    assert reader.storages["0"] is not None


def test_views_of_storages_of_very_old_files_are_not_understood() -> None:
    code = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\4NNN\x87tQ."
    with pytest.raises(UnknownPickleError, match="view"):
        load(code)


def test_a_lie_about_an_old_files_storage(tmp_path: Path) -> None:
    content = saved({"w": torch.ones(7)}, old=True)
    at = content.rindex((7).to_bytes(8, "little"))
    for elems in (6, 8, 2**62):
        (tmp_path / "m.pt").write_bytes(
            content[:at] + elems.to_bytes(8, "little") + content[at + 8 :]
        )
        with pytest.raises(FormatError, match="7 elements are expected"):
            pytorch.scan(str(tmp_path / "m.pt"), "m.pt")


def test_python_2_dictionaries() -> None:
    pairs = b"]((X\1\0\0\0aK\1t(X\1\0\0\0bK\2te"
    value, _ = load(b"ccollections\nOrderedDict\n" + pairs + b"\x85R.")
    assert value.pairs == [("a", 1), ("b", 2)]
    assert pickle.loads(b"\x80\2ccollections\nOrderedDict\n" + pairs + b"\x85R.") == {
        "a": 1,
        "b": 2,
    }
