"""Turn the storages and tensors that a PyTorch pickle names into spans of a file."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from p2u.formats.pickles import PickledTensor, Storage
from p2u.types import ITEMSIZE, NUMPY_NAMES, PROGRESSIVE, TensorSpan

#: Kinds of storages: safetensors' name of the element type, or PyTorch's for opaque ones.
_KINDS = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
}
_FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
#: The element types of tensors in storages of bytes, by PyTorch's names.
_UNTYPED = {
    NUMPY_NAMES[dtype]: dtype for dtype in ("U16", "U32", "U64", *_FLOAT8, "F64", *PROGRESSIVE)
}
_ITEMS = {**ITEMSIZE, "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4}


@dataclass(frozen=True, slots=True)
class Record:
    """The place of a storage's bytes in the file."""

    offset: int
    length: int


def item_size(storage: Storage) -> int | None:
    """Bytes that one of the elements takes that a storage counts; None if not known."""
    return 1 if storage.kind == "UntypedStorage" else _ITEMS.get(_KINDS.get(storage.kind, ""))


def list_spans(
    file: str,
    folder: str,
    records: Mapping[str, Record],
    storages: Mapping[str, Storage | None],
    tensors: Iterable[tuple[str, PickledTensor]],
) -> tuple[TensorSpan, ...]:
    """Spans of all storages whose elements are known.

    Each storage is divided among the tensors that lie in it without gaps, the largest first; what
    none of them takes is a tensor of one dimension called after the storage. An odd
    storage is left out: its bytes are carried then.

    Args:
        file: What the spans call it.
        folder: What the names of tensors without one begin with.
        records: Place of each storage by key.
        storages: Kind and number of elements by key; None if it is ambiguous.
        tensors: Their names, which need not be unique.
    """
    views: dict[str, list[tuple[str, PickledTensor]]] = {}
    for name, tensor in tensors:
        views.setdefault(tensor.storage.key, []).append((name, tensor))
    spans: list[TensorSpan] = []
    for key, storage in storages.items():
        record = records.get(key)
        if storage is None or record is None:
            continue
        dtype, elems = _element_type(storage, views.get(key, ()))
        item = _ITEMS.get(dtype)
        if not item or elems * item != record.length:
            continue
        parts = _divide(f"{folder}/{key}", elems, views.get(key, ()))
        for name, shape, first, count in parts:
            offset = record.offset + first * item
            spans.append(TensorSpan(name, dtype, shape, file, offset, count * item))
    return tuple(sorted(spans, key=lambda span: span.offset))


def _element_type(storage: Storage, views: Iterable[tuple[str, PickledTensor]]) -> tuple[str, int]:
    """Element type and number of elements; no type if it is not known."""
    if storage.kind != "UntypedStorage":
        return _KINDS.get(storage.kind, ""), storage.elems
    dtypes = {_UNTYPED.get(tensor.dtype, "") for _, tensor in views}
    dtype = dtypes.pop() if len(dtypes) == 1 else ""
    return dtype, storage.elems // _ITEMS.get(dtype, 1)


def _divide(
    storage: str, elems: int, views: Iterable[tuple[str, PickledTensor]]
) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Name, shape, first element and number of elements of disjoint parts that are all."""
    dense = []
    for name, tensor in views:
        count = math.prod(tensor.shape)
        shape = _memory_shape(tensor) if 0 < count <= elems - tensor.offset else None
        if shape is not None:
            dense.append((-count, tensor.offset, shape, name))
    taken: list[tuple[int, int, str, tuple[int, ...]]] = []
    # Stable: of tied tensors the first name counts.
    for negative, first, shape, name in sorted(dense, key=lambda found: found[:2]):
        at = bisect_left(taken, (first,))
        before = taken[at - 1][1] if at else 0
        after = taken[at][0] if at < len(taken) else elems
        if before <= first and first - negative <= after:
            insort(taken, (first, first - negative, name, shape))
    covered = 0
    for first, end, name, shape in [*taken, (elems, elems, "", ())]:
        if first > covered:
            whole = first - covered == elems
            rest = storage if whole else f"{storage}[{covered}:{first}]"
            yield rest, (first - covered,), covered, first - covered
        if end > first:
            yield name or storage, shape, first, end - first
        covered = end


def _memory_shape(tensor: PickledTensor) -> tuple[int, ...] | None:
    """The shape of a tensor without gaps, its dimensions in the order of memory; else None."""
    if _is_dense(tensor.shape, tensor.strides):
        return tensor.shape
    order = sorted(range(len(tensor.shape)), key=lambda n: -tensor.strides[n])
    shape = tuple(tensor.shape[n] for n in order if tensor.shape[n] != 1)
    strides = tuple(tensor.strides[n] for n in order if tensor.shape[n] != 1)
    return shape if _is_dense(shape, strides) else None


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether elements follow each other, the last dimension fastest."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True
