"""Model files and directories: which tensors they hold and where the bytes lie.

A format lists tensor spans; all other bytes are carried as they are. So far: safetensors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from p2u.errors import DiskError, FormatError
from p2u.formats import safetensors, shards
from p2u.formats.order import ForwardKey, forward_key
from p2u.formats.walk import walk_files
from p2u.types import ModelFile, TensorSpan

__all__ = ["ForwardKey", "Model", "forward_key", "scan_model"]

SUPPORTED = (
    "Supported are a single .safetensors file and a directory with .safetensors files "
    "(Hugging Face style, sharded too)"
)


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it lies on disk.

    Attributes:
        root: The directory that the files' paths are relative to.
        files: All its files, sorted by path; at least one has spans.
    """

    root: str
    files: tuple[ModelFile, ...]

    @property
    def spans(self) -> tuple[TensorSpan, ...]:
        """All tensors, by file and offset. A name may appear in several files."""
        return tuple(span for file in self.files for span in file.spans)

    def locate(self, file: str) -> str:
        """Return where the file with this relative path lies on this machine."""
        return _locate(self.root, file)


def _locate(root: str, file: str) -> str:
    return os.path.join(root, *file.split("/"))  # noqa: PTH118 - strings throughout


def _scan_file(root: str, file: str, size: int) -> ModelFile:
    """One file of a model; its tensors where it is of a known format."""
    if not file.endswith(safetensors.SUFFIX):
        return ModelFile(file, size)
    size, spans = safetensors.list_spans(_locate(root, file), file)
    return ModelFile(file, size, spans)


def _no_model(path: str, files: list[tuple[str, int]]) -> FormatError:
    """Say what a directory without model files is."""
    names = [file for file, _ in files]
    if "p2u.json" in names:
        return FormatError(
            "this is a P2U package, not a model", file=path, hint="Use `p2u inspect` or `p2u pull`"
        )
    others = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".onnx", ".gguf"))]
    found = f"it has {', '.join(others[:3])}" if others else f"it has {len(names)} other files"
    return FormatError(f"no .safetensors file in it; {found}", file=path, hint=SUPPORTED)


def scan_model(path: str) -> Model:
    """List the files and tensors of a model.

    Args:
        path: A ``.safetensors`` file, or a directory with at least one. Of a directory all files
            belong to the model, but those in hidden folders or with a hidden name do not.

    Returns:
        The model; reading it costs the headers only.

    Raises:
        DiskError: Something is not there or cannot be read.
        FormatError: It is not a model, has no tensors, a file is malformed, or an index names
            shards or tensors that are missing.
    """
    path = os.fspath(path)
    if os.path.isdir(path):  # noqa: PTH112
        root, found = path, walk_files(path)
        if not any(file.endswith(safetensors.SUFFIX) for file, _ in found):
            raise _no_model(path, found)
    elif os.path.isfile(path):  # noqa: PTH113
        if not path.endswith(safetensors.SUFFIX):
            raise FormatError("not a model file that is known here", file=path, hint=SUPPORTED)
        root, name = os.path.split(path)
        root, found = root or os.curdir, [(name, 0)]
    elif os.path.lexists(path):
        raise FormatError("neither a file nor a folder", file=path, hint=SUPPORTED)
    else:
        raise DiskError("no such file or directory", file=path, hint="Check the path")
    model = Model(root, tuple(_scan_file(root, file, size) for file, size in found))
    by_path = {file.path: file for file in model.files}
    for file in by_path:
        if shards.is_index(file):
            shards.check_index(model.locate(file), file, by_path)
    if not any(file.spans for file in model.files):
        raise FormatError("no tensors: the model is empty", file=path, hint=SUPPORTED)
    return model
