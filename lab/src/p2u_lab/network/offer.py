"""The offer of a server: a model as it is, packed, and compressed by rivals."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2u.errors import UnsupportedError, UsageError
from p2u.formats import scan_model
from p2u.types import ITEMSIZE
from p2u_lab.base import MissingDataError
from p2u_lab.methods.codecs import library

#: Ways to transmit a model, in the order of tables.
METHODS = ("p2u", "plain", "zipnn", "lmz")
PACKAGE = "package"

#: ZipNN's words for dtypes.
_ZIPNN_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
#: Threads of rivals that decompress.
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Offer:
    """A folder that a server serves.

    Attributes:
        model: The publisher's folder.
        root: The server's; ``package`` in it is P2U's, and each rival has one of its name.
        files: Per method but ``p2u``: path in the model, and path below ``root`` of what is sent
            for it; small files first, as downloaders have them first.
        sizes: Bytes of the whole, per method.
    """

    model: Path
    root: Path
    files: Mapping[str, Sequence[tuple[str, str]]]
    sizes: Mapping[str, int]

    @property
    def original(self) -> int:
        """Bytes of the publisher's files."""
        return sum(path.stat().st_size for path in _files(self.model))


def prepare(
    model: Path, root: Path, methods: Sequence[str] = METHODS, **recipe: Any
) -> tuple[Offer, dict[str, str]]:
    """Make what a server offers.

    Args:
        model: A model's folder.
        root: An empty folder.
        methods: Of `METHODS`.
        recipe: For ``p2u.pack``: ``bits=3``.

    Returns:
        The offer, and why methods are not in it: their libraries are missing, or cannot do it.

    Raises:
        UsageError: There is no such method.
        The errors of ``p2u.pack``.
    """
    import p2u

    unknown = set(methods) - set(METHODS)
    if unknown:
        raise UsageError(f"no method {sorted(unknown)}", hint=f"There are {', '.join(METHODS)}")
    files: dict[str, Sequence[tuple[str, str]]] = {}
    sizes: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for method in methods:
        folder = root / (PACKAGE if method == "p2u" else method)
        try:
            if method == "p2u":
                p2u.pack(model, folder, **recipe)
            else:
                files[method] = _copy(model, folder, _PACKERS[method])
        except (UnsupportedError, MissingDataError) as error:
            if method == "p2u":
                raise
            left_out[method] = str(error)
            continue
        sizes[method] = sum(path.stat().st_size for path in _files(folder))
    return Offer(model, root, files, sizes), left_out


def _files(folder: Path) -> list[Path]:
    """All files below a folder, small ones first; hidden ones are not the model's."""
    found = [path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder)]
    return sorted(found, key=lambda path: (path.stat().st_size, str(path)))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _copy(
    model: Path, folder: Path, pack: Callable[[Path, Path, str], Path] | None
) -> list[tuple[str, str]]:
    """Copy a model; files with tensors are packed. Returns `Offer.files`."""
    scan = scan_model(str(model))
    main: dict[str, str] = {}
    for file in scan.files:
        size_of: dict[str, int] = {}
        for span in file.spans:
            size_of[span.dtype] = size_of.get(span.dtype, 0) + span.length
        if size_of:
            main[file.path] = max(size_of, key=lambda dtype: size_of[dtype])
    made = []
    for path in _files(model):
        name = path.relative_to(model).as_posix()
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if pack is not None and name in main:
            target = pack(path, target, main[name])
        else:
            _link(path, target)
        made.append((name, target.relative_to(folder.parent).as_posix()))
    return made


def _link(path: Path, target: Path) -> None:
    """A second name for a file, or a copy where there can be none."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def _pack_zipnn(path: Path, target: Path, dtype: str) -> Path:
    if dtype not in _ZIPNN_DTYPES:
        raise UnsupportedError(f"ZipNN does not compress {dtype}", file=path.name)
    make = library("zipnn", "zipnn").ZipNN
    codec = make(threads=_THREADS, input_format="byte", bytearray_dtype=_ZIPNN_DTYPES[dtype])
    packed = target.with_name(f"{target.name}.znn")
    # Read for it alone: the C code reorders the bits of its input in place. It must not have a
    # part of an element, see `p2u_lab.methods.codecs.ZipNN`: that goes in front.
    data = path.read_bytes()
    rest = len(data) % ITEMSIZE[dtype]
    tail = data[len(data) - rest :]
    with packed.open("wb") as stream:
        stream.write(bytes([rest]) + tail)
        stream.write(codec.compress(data[: len(data) - rest]))
    return packed


def _unpack_zipnn(packed: Path, target: Path, codec: Any) -> None:
    with packed.open("rb") as source, target.open("wb") as out:
        tail = source.read(source.read(1)[0])
        out.write(codec.decompress(source.read()))
        out.write(tail)


def _pack_lmz(path: Path, target: Path, dtype: str) -> Path:
    packed = target.with_name(f"{target.name}.lmz")
    # Its chunks are 8 MiB by default; these are smaller and faster.
    library("lmz", "lmzip").compress(str(path), str(packed), workers=_THREADS, chunk_size=2 << 20)
    return packed


def unpacker(suffix: str) -> Callable[[Path, Path], object]:
    """Undoes what `prepare` did to files of a suffix; imports what it needs at once.

    Raises:
        MissingDataError: It is not installed.
        UsageError: No rival makes such files.
    """
    if suffix == ".znn":
        codec = library("zipnn", "zipnn").ZipNN(threads=_THREADS, input_format="byte")
        return lambda packed, target: _unpack_zipnn(packed, target, codec)
    if suffix == ".lmz":
        decompress = library("lmz", "lmzip").decompress
        return lambda packed, target: decompress(
            str(packed), str(target), workers=_THREADS, overwrite=True
        )
    raise UsageError(f"{suffix} is not a rival's suffix")


_PACKERS: dict[str, Callable[[Path, Path, str], Path] | None] = {
    "plain": None,
    "zipnn": _pack_zipnn,
    "lmz": _pack_lmz,
}
