"""Scan a model: list its files and the spans of their tensors.

A format is a module with ``SUFFIXES`` and two functions, `matches` and `scan`; ``FORMATS`` lists
them. It names tensor spans; all other bytes are carried as they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from p2u.disk.errors import disk_error
from p2u.errors import DiskError, FormatError
from p2u.formats import gguf, npy, npz, onnx, pytorch, safetensors, shards
from p2u.formats.merge import merge
from p2u.formats.walk import ModelFolder, is_hidden, walk_files
from p2u.package.paths import MANIFEST_KEY
from p2u.types import ModelFile, Scan, TensorSpan

__all__ = ["ScannedModel", "scan_model"]


class Format(Protocol):
    """A kind of file that tensors are found in.

    Attributes:
        SUFFIXES: Endings of its files' names, in lower case.
    """

    SUFFIXES: tuple[str, ...]

    def matches(self, file: str, head: bytes) -> bool:
        """Whether a file is of this kind.

        Args:
            file: Its name or path.
            head: Its first bytes: ``HEAD`` of them, or all.
        """

    def scan(self, path: str, file: str) -> Scan:
        """List the tensors of a file that matches.

        Args:
            path: Where the file is.
            file: What the spans and the messages call it: its path in the model directory.

        Raises:
            DiskError: It cannot be read.
            FormatError: It is malformed.
            UnsupportedError: It is of a variant that is not known here.
        """


#: All formats; the first one that matches a file reads it.
FORMATS: list[Format] = [safetensors, onnx, gguf, pytorch, npz, npy]
#: How much of each file is read to recognise it, in bytes.
HEAD = 64


def suffixes() -> tuple[str, ...]:
    """Endings of the names of all files that tensors are found in."""
    return tuple(suffix for known in FORMATS for suffix in known.SUFFIXES)


def supported() -> str:
    """The kinds of models that are known, for messages."""
    *others, last = suffixes()
    return (
        f"Supported are {', '.join(others)} and {last} files, and directories with such files "
        "(Hugging Face style, sharded too)"
    )


@dataclass(frozen=True, slots=True)
class ScannedModel:
    """A model on disk.

    Attributes:
        root: The directory that the files' paths are relative to.
        files: All its files, sorted by path; at least one has spans.
        left_out: What of the folder is no part of it, see `ModelFolder`.
        links: Files and folders in it that are there twice, see `ModelFolder`.
    """

    root: str
    files: tuple[ModelFile, ...]
    left_out: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def spans(self) -> tuple[TensorSpan, ...]:
        """All tensors, by file and offset. A name may appear in several files."""
        return tuple(span for file in self.files for span in file.spans)

    def locate(self, file: str) -> str:
        """The path on this machine of the file with this relative path."""
        return _locate(self.root, file)


def _locate(root: str, file: str) -> str:
    return os.path.join(root, *file.split("/"))  # noqa: PTH118 - strings throughout


def _format(path: str, file: str) -> Format | None:
    """The format of a file; None if it is only carried.

    Raises:
        DiskError: It cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise disk_error(error, file, "read") from error
    return next((known for known in FORMATS if known.matches(file, head)), None)


def _no_model(path: str, files: list[str]) -> FormatError:
    """Say what a directory without model files is."""
    if MANIFEST_KEY in files:
        return FormatError(
            "this is a P2U package, not a model", file=path, hint="Use `p2u inspect` or `p2u pull`"
        )
    others = [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
    found = f"it has {', '.join(others[:3])}" if others else f"it has {len(files)} other files"
    return FormatError(f"no model file in it; {found}", file=path, hint=supported())


def _scan_directory(root: str, content: ModelFolder) -> tuple[dict[str, int], dict[str, Scan]]:
    """The sizes of all files, and what those of a known format hold."""
    sizes = dict(content.files)
    gguf.check_splits(file for file in sizes if not is_hidden(file))
    scans = {}
    for file in sizes:
        path = _locate(root, file)
        if not is_hidden(file) and (known := _format(path, file)):
            scans[file] = known.scan(path, file)
            sizes[file] = scans[file].size
    if not scans:
        raise _no_model(root, list(sizes))
    return sizes, scans


def _scan_file(root: str, name: str) -> tuple[dict[str, int], dict[str, Scan]]:
    """The same for one file and those that it keeps its tensors in."""
    path = _locate(root, name)
    known = _format(path, name)
    if known is None:
        raise FormatError("not a model file of a known format", file=path, hint=supported())
    scan = known.scan(path, name)
    sizes = {name: scan.size}
    for file in {span.file for span in scan.spans} - {name}:
        try:
            sizes[file] = os.stat(_locate(root, file)).st_size  # noqa: PTH116
        except OSError as error:
            raise DiskError(
                f"cannot read it, but {name} keeps tensors there: {error.strerror}",
                file=file,
                hint="Put the file there",
            ) from error
    return dict(sorted(sizes.items())), {name: scan}


def scan_model(path: str) -> ScannedModel:
    """List the files and tensors of a model.

    Args:
        path: A model file, or a directory with at least one. Of a directory all files belong to
            the model but those of tools and of P2U; hidden ones are carried. To a single file
            belong those that it keeps its tensors in.

    Returns:
        The model; reading it costs the headers only.

    Raises:
        DiskError: Something is not there or cannot be read.
        FormatError: It is not a model, has no tensors, a file is malformed, or an index names
            shards or tensors that are missing.
        UnsupportedError: A file is of a variant that is not known here.
    """
    path = os.fspath(path)
    if os.path.isdir(path):  # noqa: PTH112
        root = path
        content = walk_files(root)
        sizes, scans = _scan_directory(root, content)
    elif os.path.isfile(path):  # noqa: PTH113
        folder, name = os.path.split(path)
        root = folder or os.curdir
        content = ModelFolder()
        sizes, scans = _scan_file(root, name)
    elif os.path.lexists(path):
        raise FormatError("neither a file nor a folder", file=path, hint=supported())
    else:
        raise DiskError("no such file or directory", file=path, hint="Check the path")
    left_out, links = tuple(content.left_out), tuple(content.links)
    model = ScannedModel(root, merge(sizes, scans), left_out, links)
    by_path = {file.path: file for file in model.files}
    for file in by_path:
        if shards.is_index(file) and not is_hidden(file):
            shards.check_index(model.locate(file), file, by_path)
    if not any(file.spans for file in model.files):
        raise FormatError("no tensors: the model is empty", file=path, hint=supported())
    return model
