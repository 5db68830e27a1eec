"""Feed a model's weights to a session as graph inputs, with each call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.formats import scan_model
from p2u.packing.chunking.treatment import MIN_ELEMENTS
from p2u.types import NUMPY_NAMES, PROGRESSIVE, TensorSpan

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import OrtValue

#: NumPy's types of the floats whose values change from state to state; bfloat16 as its bits.
_NUMPY = {**{dtype: NUMPY_NAMES[dtype] for dtype in PROGRESSIVE}, "BF16": "uint16"}
_BFLOAT16 = 16  # of onnx.TensorProto.DataType


def split(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """Take the weights that have levels out of a model.

    Args:
        path: The ``.onnx`` file; its external data need not be read for this.

    Returns:
        The model with these initializers turned into inputs, and their names.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    known = {value.name for value in graph.input}
    names, kept = [], []
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    spans = _spans(path)
    for tensor in graph.initializer:
        shape = tuple(tensor.dims)
        if (
            tensor.data_type in floats
            and tensor.name in spans
            and len(shape) >= 2
            and math.prod(shape) >= MIN_ELEMENTS
        ):
            names.append(tensor.name)
            if tensor.name not in known:
                graph.input.append(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
                )
            continue
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
        kept.append(tensor)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    data: bytes = model.SerializeToString()
    return data, tuple(names)


def feeds(path: Path, names: tuple[str, ...]) -> Mapping[str, OrtValue]:
    """The weights of one state, as values that ONNX Runtime reads where they are.

    Args:
        path: The ``.onnx`` file of this state. Its pages are mapped, so it may be removed but must
            not be written to.
        names: Those wanted.
    """
    from onnxruntime import OrtValue

    spans = _spans(path)
    maps: dict[str, np.memmap[Any, Any]] = {}
    found = {}
    for name in names:
        array = _array(path, spans[name], maps)
        if spans[name].dtype == "BF16":
            found[name] = OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
        else:
            found[name] = OrtValue.ortvalue_from_numpy(array)
    return found


def _spans(path: Path) -> dict[str, TensorSpan]:
    return {span.name: span for span in scan_model(str(path)).spans if span.dtype in PROGRESSIVE}


def _array(path: Path, span: TensorSpan, maps: dict[str, Any]) -> np.ndarray[Any, Any]:
    """A tensor in the mapped file; a copy if it lies at an odd address."""
    import numpy as np

    if span.file not in maps:
        maps[span.file] = np.memmap(path.parent / span.file, np.uint8, mode="r")
    part = maps[span.file][span.offset : span.offset + span.length]
    dtype = np.dtype(_NUMPY[span.dtype]).newbyteorder("<")
    if part.ctypes.data % dtype.itemsize:
        part = np.array(part)
    # A plain array: ONNX Runtime wants no subclass.
    return np.asarray(part).view(dtype).reshape(span.shape)
