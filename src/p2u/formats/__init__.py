"""Scan a model: list its files and the spans of their tensors.

A format is a module with ``SUFFIXES`` and two functions, `matches` and `scan`; ``FORMATS`` lists
them. It names tensor spans; all other bytes are carried as they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Protocol

from p2u.disk.errors import disk_error
from p2u.errors import DiskError, FormatError
from p2u.formats import gguf, npy, npz, onnx, parts, pytorch, safetensors, shards
from p2u.formats.foreign import recognise
from p2u.formats.merge import merge
from p2u.formats.reader import open_structure
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
        notes: Sentences on files whose tensors are only carried, or that are no model files.
    """

    root: str
    files: tuple[ModelFile, ...]
    left_out: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def spans(self) -> tuple[TensorSpan, ...]:
        """All tensors, by file and offset. A name may appear in several files."""
        return tuple(span for file in self.files for span in file.spans)

    def locate(self, file: str) -> str:
        """The path on this machine of the file with this relative path."""
        return _locate(self.root, file)


def _locate(root: str, file: str) -> str:
    return os.path.join(root, *file.split("/"))  # noqa: PTH118 - strings throughout


def _head(path: str, file: str) -> bytes:
    """The first bytes of a file; raises DiskError."""
    try:
        with open_structure(path) as stream:
            return stream.read(HEAD)
    except OSError as error:
        raise disk_error(error, file, "read") from error


def _format(path: str, file: str) -> tuple[Format | None, str]:
    """The format of a file, or what it is if it only has the name of one.

    Returns:
        No format for a file that is only carried.

    Raises:
        DiskError: It cannot be read.
        FormatError: It has the name of a format, but is of another kind.
    """
    head = _head(path, file)
    known = next((known for known in FORMATS if known.matches(file, head)), None)
    what = recognise(head) if file.endswith(suffixes()) else ""
    if known is not None and what and not head.startswith(b"\x80"):
        raise FormatError(f"is {what}", file=file)
    return known, "" if known else what


def _no_model(path: str, files: list[str], foreign: list[str]) -> FormatError:
    """Say what a directory without model files is."""
    if MANIFEST_KEY in files:
        return FormatError(
            "this is a P2U package, not a model", file=path, hint="Use `p2u inspect` or `p2u pull`"
        )
    if foreign:
        text = "; ".join(foreign[:3])
        hint = None if ":" in text else supported()
        return FormatError(f"no model file in it; {text}", file=path, hint=hint)
    others = [name for name in files if name.endswith(suffixes())]
    found = f"it has {len(files)} other files" if files else "it is empty"
    if others:
        found = f"{', '.join(others[:3])} only has the name of one"
    return FormatError(f"no model file in it; {found}", file=path, hint=supported())


@dataclass(slots=True)
class _Found:
    """Sizes of all files, what those of a known format hold, and sentences on others."""

    sizes: dict[str, int]
    scans: dict[str, Scan] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    def scan(self, root: str, file: str) -> None:
        """Scan a file, if it is of a known format."""
        path = _locate(root, file)
        known, what = _format(path, file)
        if known is not None:
            self.scans[file] = known.scan(path, file)
            self.sizes[file] = self.scans[file].size
        elif what:
            self.foreign.append(f"{file} is {what}")

    @property
    def obstacles(self) -> list[str]:
        """Sentences on tensors that are only carried."""
        return [f"{file}: {scan.obstacle}" for file, scan in self.scans.items() if scan.obstacle]


def _scan_directory(root: str, content: ModelFolder) -> _Found:
    found = _Found(dict(content.files))
    for file in list(found.sizes):
        if not is_hidden(file):
            found.scan(root, file)
    if not found.scans:
        raise _no_model(root, list(found.sizes), found.foreign)
    return found


def _scan_file(root: str, name: str) -> _Found:
    """The same for one file and those that it keeps its tensors in."""
    found = _Found({})
    found.scan(root, name)
    path = _locate(root, name)
    if found.foreign:
        text = found.foreign[0].removeprefix(f"{name} ")
        raise FormatError(text, file=path, hint=None if ":" in text else supported())
    if not found.scans:
        raise FormatError("not a model file of a known format", file=path, hint=supported())
    for part in parts.all_parts(root, name):
        if part not in found.sizes:
            found.sizes[part] = _size(root, part, "it is a part of the model")
            found.scan(root, part)
    spans = [span.file for scan in found.scans.values() for span in scan.spans]
    for file in sorted(set(spans) - found.sizes.keys()):
        found.sizes[file] = _size(root, file, f"{name} keeps tensors there")
    return found


def _size(root: str, file: str, why: str) -> int:
    """Bytes of a file that belongs to the one that was named."""
    try:
        return os.stat(_locate(root, file)).st_size  # noqa: PTH116
    except OSError as error:
        raise DiskError(
            f"cannot read it, but {why}: {error.strerror}", file=file, hint="Put the file there"
        ) from error


def scan_model(path: str) -> ScannedModel:
    """List the files and tensors of a model.

    Args:
        path: A model file, or a directory with at least one. Of a directory all files belong to
            the model but those of tools and of P2U; hidden ones are carried. To a single file
            belong those that it keeps its tensors in, and all parts of its model if it is one.

    Returns:
        The model; reading it costs the headers only.

    Raises:
        DiskError: Something is not there or cannot be read.
        FormatError: It is not a model, has no tensors, a file is malformed, or parts are missing
            that a name or an index speaks of.
        UnsupportedError: A file is of a variant that is not known here.
    """
    path = os.fspath(path)
    content = ModelFolder()
    if os.path.isdir(path):  # noqa: PTH112
        root = path
        content = walk_files(root)
        found = _scan_directory(root, content)
    elif os.path.isfile(path):  # noqa: PTH113
        folder, name = os.path.split(path)
        root = folder or os.curdir
        found = _scan_file(root, name)
    elif os.path.lexists(path):
        raise FormatError("neither a file nor a folder", file=path, hint=supported())
    else:
        raise DiskError("no such file or directory", file=path, hint="Check the path")
    files = merge(dict(sorted(found.sizes.items())), found.scans)
    by_path = {file.path: file for file in files}
    for file in by_path:
        if shards.is_index(file) and not is_hidden(file):
            shards.check_index(_locate(root, file), file, by_path)
    parts.check_parts(found.scans)  # an index knows more
    if not any(file.spans for file in files):
        why = "; ".join(found.obstacles[:3]) or "the model is empty"
        raise FormatError(f"no tensors: {why}", file=path, hint=supported())
    carried = [f"{text}. It is only carried" for text in found.obstacles]
    notes = tuple(f"{text}. It is carried as it is" for text in found.foreign)
    return ScannedModel(
        root, files, tuple(content.left_out), tuple(content.links), (*notes, *carried)
    )
