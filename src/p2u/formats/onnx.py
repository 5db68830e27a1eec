"""ONNX: the spans of a model, found by walking the protobuf wire format.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. A tensor's elements become a span where
they are one run of little-endian bytes: ``raw_data``, packed ``float_data`` and ``double_data``,
or external data in another file. The rest (varints, strings) is carried.

Tensors are in initializers, node attributes (``Constant``), the bodies of ``If``, ``Loop`` and
``Scan``, sparse initializers, functions, and training graphs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from p2u.formats.external import DataFiles
from p2u.formats.protobuf import BYTES, VARINT, Field, Wire
from p2u.formats.reader import reading
from p2u.types import ITEMSIZE, Scan, TensorSpan

SUFFIXES: tuple[str, ...] = (".onnx",)

#: Messages within messages; protobuf's own limit. A body within a body is three of them.
MAX_DEPTH = 100
MAX_TENSORS = 1_000_000
MAX_DIMS = 1024
MAX_SIZE = 2**63 - 1
#: Bytes of a name, and of an entry of a tensor's external data.
MAX_TEXT = 1 << 16

#: ``TensorProto.DataType``: our names.
_NAMES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    16: "BF16",
    17: "F8_E4M3",
    18: "F8_E4M3FNUZ",
    19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
    24: "F8_E8M0",
}
#: Name and bits of an element. Others are opaque.
DTYPES: dict[int, tuple[str, int]] = {
    **{number: (name, 8 * ITEMSIZE[name]) for number, name in _NAMES.items()},
    15: ("C128", 128),
    21: ("U4", 4),
    22: ("I4", 4),
    23: ("F4", 4),
    25: ("U2", 2),
    26: ("I2", 2),
}
STRING = 8
#: The types that ``float_data`` and ``double_data`` hold as they are in memory.
IN_FLOATS = (1, 14)
IN_DOUBLES = (11, 15)


class _Kind(Enum):
    """The messages that tensors are found in."""

    MODEL = "model"
    TRAINING = "training"
    FUNCTION = "function"
    GRAPH = "graph"
    NODE = "node"
    ATTRIBUTE = "attribute"
    SPARSE = "sparse tensor"
    TENSOR = "tensor"


#: Which fields of a message hold which others.
CHILDREN: dict[_Kind, dict[int, _Kind]] = {
    _Kind.MODEL: {7: _Kind.GRAPH, 20: _Kind.TRAINING, 25: _Kind.FUNCTION},
    _Kind.TRAINING: {1: _Kind.GRAPH, 2: _Kind.GRAPH},
    _Kind.FUNCTION: {7: _Kind.NODE, 11: _Kind.ATTRIBUTE},
    _Kind.GRAPH: {1: _Kind.NODE, 5: _Kind.TENSOR, 15: _Kind.SPARSE},
    _Kind.NODE: {5: _Kind.ATTRIBUTE},
    _Kind.ATTRIBUTE: {
        5: _Kind.TENSOR,
        6: _Kind.GRAPH,
        10: _Kind.TENSOR,
        11: _Kind.GRAPH,
        22: _Kind.SPARSE,
        23: _Kind.SPARSE,
    },
    _Kind.SPARSE: {1: _Kind.TENSOR, 2: _Kind.TENSOR},
}
#: The field that a message is called by: a node by its first output, which is unique in its graph.
NAME = {_Kind.NODE: 2, _Kind.ATTRIBUTE: 1, _Kind.TENSOR: 8}

#: A message on the way down to a tensor: what, begin, end.
Step = tuple[_Kind, int, int]


@dataclass(slots=True)
class _OnnxTensor:
    """The needed fields of a TensorProto. Runs are (begin, end) in the file."""

    dtype: int = 0
    dims: list[int] = field(default_factory=list)
    name: str = ""
    raw: tuple[int, int] | None = None
    floats: list[tuple[int, int]] = field(default_factory=list)
    doubles: list[tuple[int, int]] = field(default_factory=list)
    is_external: bool = False
    is_segment: bool = False
    external: dict[str, str] = field(default_factory=dict)

    def run(self) -> tuple[int, int] | None:
        """The one run of the elements in the model's own file; None if there is none."""
        if self.raw is not None:
            return self.raw
        runs: list[tuple[int, int]] = []
        if self.dtype in IN_FLOATS:
            runs = self.floats
        elif self.dtype in IN_DOUBLES:
            runs = self.doubles
        return runs[0] if len(runs) == 1 else None


class _OnnxWalk:
    """One walk through a file."""

    def __init__(self, wire: Wire, path: str, file: str) -> None:
        self._wire = wire
        self._file = file
        self._data = DataFiles(path, file)
        self.spans: list[TensorSpan] = []
        self.graphs = 0
        self._names: dict[Step, str] = {}

    def walk(self, kind: _Kind, start: int, end: int, above: tuple[Step, ...] = ()) -> None:
        """Visit a message and those within it."""
        if len(above) >= MAX_DEPTH:
            raise self._wire.reader.wrong(f"more than {MAX_DEPTH} messages within each other")
        here = (*above, (kind, start, end))
        children = CHILDREN[kind]
        for number, wire, begin, stop in self._wire.fields(start, end):
            child = children.get(number)
            if child is None or wire != BYTES:
                continue
            if child is _Kind.TENSOR:
                self._tensor(begin, stop, here)
            else:
                self.graphs += child is _Kind.GRAPH
                self.walk(child, begin, stop, here)

    def _tensor(self, start: int, end: int, above: tuple[Step, ...]) -> None:
        tensor = self._parse(start, end)
        if tensor.dtype == STRING or tensor.is_segment:
            return
        name = tensor.name or self._derived_name(above)
        elems = 1
        for dim in tensor.dims:
            elems *= dim
            if elems > MAX_SIZE:
                raise self._wire.reader.wrong("the number of elements is beyond 2^63 - 1", name)
        dtype, bits = DTYPES.get(tensor.dtype, (f"ONNX_{tensor.dtype}", 0))
        expected = -(-elems * bits // 8) if bits else None
        if tensor.is_external:
            file, offset, length = self._data.locate(tensor.external, expected, name)
        else:
            run = tensor.run()
            if run is None or run[0] == run[1]:
                return  # carried, if there is anything
            file, offset, length = self._file, run[0], run[1] - run[0]
        if expected is not None and length != expected:
            raise self._wire.reader.wrong(
                f"{str(tensor.dims)[:80]} of {dtype} takes {expected} bytes, it has {length}", name
            )
        if len(self.spans) >= MAX_TENSORS:
            raise self._wire.reader.wrong(f"more than {MAX_TENSORS} tensors")
        self.spans.append(TensorSpan(name, dtype, tuple(tensor.dims), file, offset, length))

    def _parse(self, start: int, end: int) -> _OnnxTensor:
        """Read a TensorProto."""
        wire, tensor = self._wire, _OnnxTensor()
        for found in wire.fields(start, end):
            number, kind, a, b = found
            if number == 1:
                tensor.dims += wire.numbers(found, MAX_DIMS)
                if len(tensor.dims) > MAX_DIMS or max(tensor.dims, default=0) > MAX_SIZE:
                    raise wire.reader.wrong(f"the dimensions before byte {b} are no shape")
            elif number == 2 and kind == VARINT:
                tensor.dtype = a
            elif number == 3:
                tensor.is_segment = True
            # An element that is not packed makes a run of its own, and so the rest no single one.
            elif number == 4:
                tensor.floats.append((a, b))
            elif number == 8:
                tensor.name = wire.text(found, MAX_TEXT)
            elif number == 9 and kind == BYTES:
                tensor.raw = (a, b)
            elif number == 10:
                tensor.doubles.append((a, b))
            elif number == 13 and kind == BYTES:
                self._entry(found, tensor.external)
            elif number == 14 and kind == VARINT:
                tensor.is_external = a == 1
        return tensor

    def _entry(self, message: Field, out: dict[str, str]) -> None:
        """Read a StringStringEntryProto of a tensor's external data."""
        key = value = ""
        for found in self._wire.fields(message[2], message[3]):
            if found[0] == 1:
                key = self._wire.text(found, MAX_TEXT)
            elif found[0] == 2:
                value = self._wire.text(found, MAX_TEXT)
        if key in ("location", "offset", "length"):
            out[key] = value

    def _derived_name(self, above: tuple[Step, ...]) -> str:
        """A name for a tensor that has none: the node's output, and the attribute's name."""
        parts: list[str] = []
        for step in reversed(above):
            if step[0] in (_Kind.GRAPH, _Kind.FUNCTION):
                break
            if step not in self._names:
                self._names[step] = self._own_name(*step)
            text = self._names[step]
            if text and not (step[0] is _Kind.ATTRIBUTE and text == "value"):
                parts.insert(0, text)
        return ".".join(parts) or "tensor"

    def _own_name(self, kind: _Kind, start: int, end: int) -> str:
        found = next((f for f in self._wire.fields(start, end) if f[0] == NAME.get(kind)), None)
        return self._wire.text(found, MAX_TEXT) if found else ""


def matches(file: str, head: bytes) -> bool:
    """Whether a file of this name is an ONNX model; protobuf has no magic number."""
    return file.endswith(SUFFIXES)


def scan(path: str, file: str) -> Scan:
    """List the tensors of an ONNX model, external data included.

    Args:
        path: Where the file is; its data files lie in the same folder or below.
        file: What the spans and the messages call it.

    Returns:
        Its size and its spans, in the order of the file. Names may repeat.

    Raises:
        DiskError: The file or a data file cannot be read.
        FormatError: It is no ONNX model, or a tensor is not what its type and shape say.
    """
    with reading(path, file) as reader:
        walk = _OnnxWalk(Wire(reader), path, file)
        walk.walk(_Kind.MODEL, 0, reader.size)
        if not walk.graphs:
            raise reader.wrong("not an ONNX model: it has no graph")
        return Scan(reader.size, tuple(walk.spans))
