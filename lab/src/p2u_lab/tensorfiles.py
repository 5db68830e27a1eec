"""Weights of files as NumPy arrays, bfloat16 too: safetensors both ways, CTranslate2 to read.

safetensors.numpy cannot write bfloat16 in every version; the format is ten lines.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from p2u.errors import FormatError

Array = npt.NDArray[Any]

#: The name of the one file of weights in the models' folders.
WEIGHTS = "model.safetensors"

#: Suffix of the folder -> (NumPy dtype, the name that config.json uses).
FLOATS: dict[str, tuple[np.dtype[Any], str]] = {
    "fp32": (np.dtype(np.float32), "float32"),
    "bf16": (np.dtype(ml_dtypes.bfloat16), "bfloat16"),
    "fp16": (np.dtype(np.float16), "float16"),
}

#: safetensors' element types that occur in these models.
ST_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": FLOATS["fp32"][0],
    "BF16": FLOATS["bf16"][0],
    "F16": FLOATS["fp16"][0],
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
}

#: CTranslate2's DataType enumeration.
CT2_DTYPES = ("F32", "I8", "I16", "I32", "F16", "BF16")


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the tensors of a safetensors file (memory-mapped views) and its metadata."""
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    size = int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8 : 8 + size].tobytes())
    metadata: dict[str, str] = header.pop("__metadata__", {})
    body = raw[8 + size :]
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        flat = body[start:end].view(ST_DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, metadata


def write_safetensors(path: Path, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    """Write a safetensors file in the order of the safetensors library: wide types first."""
    names = {dtype: st for st, dtype in ST_DTYPES.items()}
    order = sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n))
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name in order:
        array = tensors[name]
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)))
        out.write(text)
        for name in order:
            out.write(tensors[name].tobytes())


def read_ctranslate2(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a CTranslate2 ``model.bin`` (binary versions 4 to 6).

    Returns:
        The variables under their CTranslate2 names and the aliases (name -> variable).

    Raises:
        FormatError: It is of another version, or its sizes do not fit.
    """
    raw = path.read_bytes()
    at = 0

    def number(code: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{code}", raw, at)
        at += struct.calcsize(code)
        return int(value)

    def text() -> str:
        nonlocal at
        size = number("H")  # counts the closing NUL
        at += size
        return raw[at - size : at - 1].decode()

    version = number("I")
    if not 4 <= version <= 6:
        raise FormatError(f"CTranslate2 binary version {version}, expected 4 to 6", file=str(path))
    text(), number("I")  # specification's name and revision
    variables: dict[str, Array] = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = ST_DTYPES[CT2_DTYPES[number("B")]]
        size = number("I")
        if size != math.prod(shape) * dtype.itemsize:
            raise FormatError(f"{size} bytes do not fit shape {shape}", file=str(path), tensor=name)
        variables[name] = np.frombuffer(raw, dtype, math.prod(shape), at).reshape(shape)
        at += size
    aliases = {text(): text() for _ in range(number("I"))}
    if at != len(raw):
        raise FormatError(
            f"{len(raw) - at} bytes left over after the last variable", file=str(path)
        )
    return variables, aliases


def set_dtype(folder: Path, name: str, suffix: str) -> None:
    """Say in config.json what dtype the weights have; make a small config where none came."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {"model_type": name}
    config["torch_dtype"] = FLOATS[suffix][1]
    path.write_text(json.dumps(config, indent=2) + "\n")


def cast(source: Path, out: Path, suffix: str) -> None:
    """Copy a model folder with its float tensors rounded (to nearest even) to one dtype."""
    shutil.copytree(source, out, dirs_exist_ok=True)
    tensors, metadata = read_safetensors(source / WEIGHTS)
    target = FLOATS[suffix][0]
    floats = {dtype for dtype, _ in FLOATS.values()}
    done: dict[str, Array] = {}
    for name, array in tensors.items():
        # bfloat16 has no direct casts in NumPy; float32 holds all three exactly.
        done[name] = array.astype(np.float32).astype(target) if array.dtype in floats else array
    write_safetensors(out / WEIGHTS, done, metadata)
