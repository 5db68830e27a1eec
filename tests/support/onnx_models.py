"""Finds ONNX models in wheels, and makes one with tensors in every place there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kit
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

#: Model: the package that ships it, and the file there.
REAL = {
    "ocr-det": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr-rec": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "ocr-cls": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "magika": ("magika", "models/*/model.onnx"),
    "silero": ("silero_vad", "data/silero_vad.onnx"),
    "silero-16k": ("silero_vad", "data/silero_vad_16k_op15.onnx"),
}


def real(name: str) -> Path:
    """Where a real model lies; skips if its package is not installed."""
    return kit.packaged(*REAL[name])


def inputs(name: str) -> dict[str, np.ndarray]:
    """Something to run a real model on."""
    random = np.random.default_rng(7)
    if name == "magika":
        return {"bytes": random.integers(0, 256, (2, 2048), dtype=np.int32)}
    if name.startswith("silero"):
        return {
            "input": (0.1 * random.standard_normal((1, 576))).astype(np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(16000, np.int64),
        }
    height, width = {"ocr-det": (96, 128), "ocr-rec": (48, 160), "ocr-cls": (48, 192)}[name]
    # Bars on white: an input far from all text has chaotic outputs.
    page = np.ones((1, 3, height, width), np.float32)
    for left in range(12, width - 12, 16):
        page[..., 10 : height - 10, left : left + 4] = -1
    return {"x": page}


def run(path: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A model's outputs in onnxruntime, in one thread: the same bits each time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    return session.run(None, {key: value for key, value in feed.items() if key in names})


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all bodies within it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                if body.ByteSize():
                    yield from graphs(body)


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, as the official library parses it."""
    nodes = [node for function in model.functions for node in function.node]
    training = [g for t in model.training_info for g in (t.initialization, t.algorithm)]
    for top in [model.graph, *training]:
        for graph in graphs(top):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield sparse.values
                yield sparse.indices
            nodes += graph.node
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                if sparse.ByteSize():
                    yield sparse.values
                    yield sparse.indices


def tensor(name: str, kind: int, shape: tuple[int, ...], raw: bytes) -> onnx.TensorProto:
    """A tensor with raw data."""
    return TensorProto(name=name, data_type=kind, dims=shape, raw_data=raw)


def floats(name: str, shape: tuple[int, ...], seed: int = 0) -> onnx.TensorProto:
    """A FLOAT tensor of weights in ``raw_data``."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def _bodies(dtype: int) -> list[onnx.NodeProto]:
    """An If whose branches hold tensors, one of them in an If of its own."""
    condition = helper.make_node(
        "Constant", [], ["yes"], value=helper.make_tensor("", TensorProto.BOOL, [], [True])
    )

    def branch(name: str, nodes: list[onnx.NodeProto], seed: int) -> onnx.GraphProto:
        nodes = [*nodes, helper.make_node("Identity", ["inner.w"], [f"{name}.out"])]
        out = helper.make_tensor_value_info(f"{name}.out", dtype, [4, 80])
        return helper.make_graph(nodes, name, [], [out], [floats("inner.w", (4, 80), seed)])

    def choose(name: str, nodes: list[onnx.NodeProto], seed: int) -> onnx.NodeProto:
        then, other = branch(f"{name}.then", nodes, seed), branch(f"{name}.else", [], seed + 1)
        return helper.make_node("If", ["yes"], [name], then_branch=then, else_branch=other)

    return [condition, choose("outer", [choose("nested", [], 10)], 20)]


def everything() -> onnx.ModelProto:
    """A model with tensors of all kinds in all places; onnxruntime runs what it uses of them."""
    initializers = [floats("weight", (256, 80), 1)]
    packed = floats("", (3, 5), 2)
    initializers.append(helper.make_tensor("packed", 1, [3, 5], numpy_helper.to_array(packed)))
    initializers.append(helper.make_tensor("double", 11, [2, 3], np.arange(6.0)))
    initializers.append(helper.make_tensor("complex", 14, [2], np.array([1 + 2j, 3 - 4j])))
    for kind, (bits, *_) in KINDS.items():
        raw = bytes(range(1, 256))[: (7 * 9 * bits + 7) // 8 or 1]
        raw = raw.ljust((7 * 9 * bits + 7) // 8, b"\1")
        initializers.append(tensor(f"raw.{kind}", kind, (7, 9), raw))
    initializers.append(helper.make_tensor("varints", TensorProto.INT64, [3], [1, 2, 3]))
    initializers.append(helper.make_tensor("halves", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0]))
    initializers.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"]))
    initializers.append(tensor("none", 1, (0, 4), b""))
    scalar = helper.make_node("Constant", [], ["scalar"], value=tensor("", 1, (), b"\0\0\x80?"))
    listed = helper.make_node("Lists", [], ["l"], domain="test")
    listed.attribute.append(helper.make_attribute("many", [floats("", (2, 33), 3), packed]))
    sparse = helper.make_sparse_tensor(
        floats("sparse.values", (6,), 4), tensor("", 7, (6,), bytes(48)), [64]
    )
    sparse_constant = helper.make_node("Constant", [], ["sc"], sparse_value=sparse)
    nodes = [scalar, *_bodies(TensorProto.FLOAT)]
    nodes.append(helper.make_node("MatMul", ["x", "weight"], ["y0"]))
    nodes.append(helper.make_node("Add", ["y0", "scalar"], ["y1"]))
    nodes.append(helper.make_node("Add", ["y1", "outer"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", 1, [4, 256])],
        [helper.make_tensor_value_info("y", 1, [4, 80])],
        [t for t in initializers if t.name in ("weight", "packed")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="test", ir_version=9
    )
    # What onnxruntime has no use for, but what a file may hold.
    extra = model.training_info.add()
    extra.initialization.CopyFrom(helper.make_graph([], "i", [], [], initializers[2:]))
    extra.algorithm.CopyFrom(
        helper.make_graph([listed, sparse_constant], "a", [], [], [], sparse_initializer=[sparse])
    )
    body = helper.make_node("Constant", [], ["f"], value=floats("", (5, 16), 5))
    function = helper.make_function("test", "F", [], ["f"], [body], [helper.make_opsetid("", 17)])
    model.functions.append(function)
    return model


#: Type: bits of an element, our name for it. All that ``raw_data`` can hold.
KINDS: dict[int, tuple[int, str]] = {
    TensorProto.FLOAT: (32, "F32"),
    TensorProto.UINT8: (8, "U8"),
    TensorProto.INT8: (8, "I8"),
    TensorProto.UINT16: (16, "U16"),
    TensorProto.INT16: (16, "I16"),
    TensorProto.INT32: (32, "I32"),
    TensorProto.INT64: (64, "I64"),
    TensorProto.BOOL: (8, "BOOL"),
    TensorProto.FLOAT16: (16, "F16"),
    TensorProto.DOUBLE: (64, "F64"),
    TensorProto.UINT32: (32, "U32"),
    TensorProto.UINT64: (64, "U64"),
    TensorProto.COMPLEX64: (64, "C64"),
    TensorProto.COMPLEX128: (128, "C128"),
    TensorProto.BFLOAT16: (16, "BF16"),
    TensorProto.FLOAT8E4M3FN: (8, "F8_E4M3"),
    TensorProto.FLOAT8E4M3FNUZ: (8, "F8_E4M3FNUZ"),
    TensorProto.FLOAT8E5M2: (8, "F8_E5M2"),
    TensorProto.FLOAT8E5M2FNUZ: (8, "F8_E5M2FNUZ"),
    TensorProto.UINT4: (4, "U4"),
    TensorProto.INT4: (4, "I4"),
    TensorProto.FLOAT4E2M1: (4, "F4"),
}


def externalised(model: onnx.ModelProto, folder: Path, name: str, location: str) -> Path:
    """Save a model whose tensors all lie in another file; returns the model's path."""
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    path = folder / name
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving changes it
    onnx.save_model(
        copy, path, save_as_external_data=True, location=location, size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    return path


def as_type(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The model with the weights of its convolutions in another type, cast where they are used.

    INT8 becomes a ``DequantizeLinear``, whose scale is per tensor.
    """
    if kind == TensorProto.BFLOAT16:
        model = version_converter.convert_version(model, 13)  # the first that casts it
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:]
    weights = {
        node.output[0]: node.attribute[0].t
        for node in model.graph.node
        if node.op_type == "Constant" and len(node.attribute[0].t.dims) == 4
    }
    for name, weight in weights.items():
        values, small = numpy_helper.to_array(weight), f"{name}.small"
        if kind == TensorProto.INT8:
            scale = np.float32(np.abs(values).max() / 127)
            made = numpy_helper.from_array(np.rint(values / scale).astype(np.int8), small)
            steps = numpy_helper.from_array(np.array(scale), f"{name}.scale")
            out.graph.initializer.append(steps)
            node = helper.make_node("DequantizeLinear", [small, steps.name], [name])
        else:
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            made = tensor(small, kind, values.shape, values.astype(dtype).tobytes())
            node = helper.make_node("Cast", [small], [name], to=TensorProto.FLOAT)
        out.graph.initializer.append(made)
        out.graph.node.append(node)
    out.graph.node.extend(node for node in model.graph.node if node.output[0] not in weights)
    return out
