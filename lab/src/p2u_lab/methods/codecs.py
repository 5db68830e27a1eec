"""One-shot lossless compressors for model weights, as they are called.

The evaluation counts their bytes, the benchmarks in ``bench/`` time them, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from p2u.errors import UnsupportedError
from p2u.formats import scan_model
from p2u_lab.base import MissingDataError
from p2u_lab.libraries import imported

#: dtype of a tensor -> (suffix of a model's folder, the name that ZipNN uses).
FLOATS = {"F32": ("fp32", "float32"), "BF16": ("bf16", "bfloat16"), "F16": ("fp16", "float16")}
_ZIPNN = dict(FLOATS.values())


def library(name: str, package: str) -> Any:
    """Import a compressor.

    Args:
        name: Of the module.
        package: What pip calls it.

    Raises:
        MissingDataError: It does not import.
    """
    return imported(name, package, f"pip install --no-deps {package}")


def installed(package: str) -> str:
    """The version of an installed package.

    Raises:
        MissingDataError: It is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise MissingDataError(
            f"{package} is not installed", hint=f"pip install --no-deps {package}"
        ) from error


def main_dtype(weights: Path) -> str:
    """The suffix (``"bf16"``) of the float dtype that most bytes of a model's tensors have.

    Raises:
        UnsupportedError: It has no float tensors.
    """
    sums: dict[str, int] = {}
    for span in scan_model(str(weights)).spans:
        if span.dtype in FLOATS:
            sums[span.dtype] = sums.get(span.dtype, 0) + span.length
    if not sums:
        raise UnsupportedError("it has no tensors of F32, F16 or BF16", file=str(weights))
    return FLOATS[max(sums, key=lambda name: sums[name])][0]


class Rival(ABC):
    """One compressor in one setting.

    ``pack`` and ``unpack`` return a call that can be timed once; what they do before they return
    (reading the input, making the copy that the call may destroy) is not of the compressor.

    Attributes:
        name: The package.
        setting: What differs from its defaults; ``"default"`` if nothing.
        dtypes: The dtypes for which this setting makes a difference.
        slow: Worth its time only as a reference.
    """

    name: str
    dtypes: tuple[str, ...] = tuple(_ZIPNN)
    slow = False

    def __init__(self, setting: str = "default", **options: Any) -> None:
        self.setting = setting
        self.options = options

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the installed package."""

    @abstractmethod
    def pack(self, weights: Path, folder: Path, threads: int) -> Callable[[], Any]:
        """Prepare to compress a file of weights; ``folder`` is the rival's own."""

    @abstractmethod
    def unpack(self, packed: Any, threads: int) -> Callable[[], Any]:
        """Prepare to decompress what ``pack``'s call returned."""

    @abstractmethod
    def size(self, packed: Any) -> int:
        """Bytes of the packed form, everything included."""

    def suits(self, dtype: str) -> bool:
        """Whether the setting makes a difference for models of ``dtype`` (``"bf16"``)."""
        return dtype in self.dtypes

    def base_size(self, packed: Any) -> int | None:
        """Bytes that must be read before a lower-precision model is there; None: no such."""
        return None

    def same(self, unpacked: Any, weights: Path) -> bool:
        """Whether the decoder gave back what went in; here: all bytes of the file."""
        return bool(unpacked == weights.read_bytes())


class ZipNN(Rival):
    """ZipNN on the bytes of the whole file, as its file scripts do.

    Bytes behind the last whole element are stored apart: of lengths that are not a multiple of the
    element's size ZipNN 0.5.4 damages its memory, and sometimes the process ends.
    """

    name = "zipnn"

    @property
    def version(self) -> str:
        """Version of the installed package."""
        return installed("zipnn")

    def codec(self, threads: int, **more: Any) -> Any:
        """Its object, with this setting's options."""
        return library("zipnn", "zipnn").ZipNN(threads=threads, **{**self.options, **more})

    def pack(self, weights: Path, folder: Path, threads: int) -> Callable[[], Any]:
        """See `Rival.pack`."""
        dtype = _ZIPNN[main_dtype(weights)]
        codec = self.codec(threads, input_format="byte", bytearray_dtype=dtype)
        # Read anew each time: the C code reorders the bits of its input in place.
        data = weights.read_bytes()
        whole = len(data) - len(data) % (4 if dtype == "float32" else 2)
        tail = data[whole:]
        body = data[:whole]
        return lambda: (codec.compress(body), tail)

    def unpack(self, packed: Any, threads: int) -> Callable[[], Any]:
        """See `Rival.unpack`."""
        coded, tail = packed
        # The header says the dtype; the chunk size must be the compressor's.
        codec = self.codec(threads, input_format="byte")
        if not tail:
            return lambda: codec.decompress(coded)
        return lambda: bytes(codec.decompress(coded)) + tail

    def size(self, packed: Any) -> int:
        """See `Rival.size`."""
        return sum(map(len, packed))


class Lmz(Rival):
    """lmz (``lmzip`` on PyPI): archives on disk, decoded chunk by chunk from memory."""

    name = "lmz"

    @property
    def version(self) -> str:
        """Version of the installed package."""
        return installed("lmzip")

    def pack(self, weights: Path, folder: Path, threads: int) -> Callable[[], Any]:
        """See `Rival.pack`."""
        lmz = library("lmz", "lmzip")
        out = folder / "model.lmz"
        out.unlink(missing_ok=True)

        def run() -> Path:
            lmz.compress(str(weights), str(out), workers=threads, **self.options)
            return out

        return run

    def unpack(self, packed: Any, threads: int) -> Callable[[], Any]:
        """See `Rival.unpack`."""
        lmz = library("lmz", "lmzip")
        index = lmz.ArchiveIndex(str(packed))
        archive = memoryview(Path(packed).read_bytes())

        def run() -> Any:
            if threads > 1:
                return via_file()
            buffer = np.empty(index.original_size, np.uint8)
            out = buffer.data
            for chunk in index.chunks():
                place = out[chunk.dst : chunk.dst + chunk.rlen]
                coded = archive[chunk.off : chunk.off + chunk.clen]
                try:
                    done = index.decode(chunk, coded, out=place)
                except lmz.ArchiveIndex.NeedsSource:  # a tensor that is there twice
                    return via_file()
                if getattr(done, "obj", None) is not buffer:
                    place[:] = done  # not every kind of chunk decodes in place
            return out

        def via_file() -> bytes:
            target = Path(packed).with_suffix(".out")
            lmz.decompress(str(packed), str(target), workers=threads, overwrite=True)
            return target.read_bytes()

        return run

    def size(self, packed: Any) -> int:
        """See `Rival.size`."""
        return int(packed.stat().st_size)


class Zstd(Rival):
    """Zstandard, as the reference that knows nothing of floats."""

    name = "zstd"

    def __init__(self, level: int) -> None:
        super().__init__(f"-{level}")
        self.level = level
        self.slow = level > 9

    @property
    def version(self) -> str:
        """Version of the library."""
        numbers = library("zstandard", "zstandard").ZSTD_VERSION
        return ".".join(map(str, numbers))

    def pack(self, weights: Path, folder: Path, threads: int) -> Callable[[], Any]:
        """See `Rival.pack`."""
        zstd = library("zstandard", "zstandard")
        # 0 is zstd's word for "no worker threads".
        codec = zstd.ZstdCompressor(level=self.level, threads=threads if threads > 1 else 0)
        data = weights.read_bytes()
        return lambda: codec.compress(data)

    def unpack(self, packed: Any, threads: int) -> Callable[[], Any]:
        """See `Rival.unpack`."""
        codec = library("zstandard", "zstandard").ZstdDecompressor()
        return lambda: codec.decompress(packed)

    def size(self, packed: Any) -> int:
        """See `Rival.size`."""
        return len(packed)


def zipnn_settings() -> list[Rival]:
    """ZipNN's settings that were the smallest on some model, for whole files."""
    return [ZipNN("file"), ZipNN("file, 128 KiB chunks", compression_chunk=128 << 10)]


def lmz_settings() -> list[Rival]:
    """The same of lmz."""
    sizes = {"2 MiB chunks": 2 << 20, "1 MiB chunks": 1 << 20}
    return [Lmz(), *(Lmz(name, chunk_size=size) for name, size in sizes.items())]
