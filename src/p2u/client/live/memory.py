"""The model's files in memory, and its tensors as views of them."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import IntegrityError
from p2u.package.layout import Layout, Tensor
from p2u.package.manifest import Release, State
from p2u.types import NUMPY_NAMES

if TYPE_CHECKING:
    import numpy as np


def numpy_dtype(name: str) -> np.dtype[Any] | None:
    """NumPy's dtype for safetensors' name of one; None if there is none."""
    import numpy as np

    found = NUMPY_NAMES.get(name)
    if found is None:
        return None
    if found.startswith(("bfloat", "float8")):
        import ml_dtypes

        other: np.dtype[Any] = np.dtype(getattr(ml_dtypes, found))
        return other
    return np.dtype(found)


def allocate(size: int) -> memoryview:
    """Zeroed memory whose pages exist from their first write on."""
    if not size:
        return memoryview(bytearray())
    if not hasattr(mmap, "MAP_PRIVATE"):
        return memoryview(mmap.mmap(-1, size))
    # Python's default, memory shared with child processes, has small pages only, and the faults of
    # all threads meet at one lock.
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # kernels may be built without
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class ModelMemory:
    """All bytes of all files of a release.

    Args:
        package: Open.
        release: The one whose states come first; others may follow that are aligned with it.
        memory: Of its files, in order; by default new.
    """

    def __init__(
        self, package: PackageReader, release: Release, memory: list[memoryview] | None = None
    ) -> None:
        self.manifest = package.manifest
        #: Of the state that the memory holds.
        self.model = package.model(release)
        # Anonymous memory: pages exist from their first write on.
        self.memory = memory or [allocate(file.size) for file in release.files]
        self._spare: list[memoryview] | None = None

    @property
    def release(self) -> Release:
        """The release of the state that the memory holds."""
        return self.model.release

    @property
    def layout(self) -> Layout:
        """The tensors, where all these releases have them."""
        return self.model.layout

    def spare(self) -> list[memoryview]:
        """Memory like ``memory``, of any content, for the next state; there until `drop_spare`."""
        if self._spare is None:
            self._spare = [allocate(file.size) for file in self.release.files]
        return self._spare

    def drop_spare(self) -> None:
        """Free what `spare` gave, as soon as nobody uses it."""
        self._spare = None

    def check(self, file: int, state: State, parts: Iterable[memoryview]) -> None:
        """Compare a file with what the manifest states.

        Args:
            file: Its number.
            state: The state that it should be of.
            parts: All its bytes.

        Raises:
            IntegrityError: They differ.
        """
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        self.compare(file, state, digest.hexdigest())

    def compare(self, file: int, state: State, found: str) -> None:
        """Compare a file's digest with what the manifest states.

        Raises:
            IntegrityError: They differ.
        """
        release = self.manifest.release(state)
        entry = release.files[file]
        expected = entry.digest(release.number(state))
        if found != expected:
            raise IntegrityError(
                f"SHA-256 {found} after the update to {state.id}, expected {expected}",
                file=entry.path,
                hint="The program that made the package is faulty, or this computer's memory, or "
                "another part of this program has written to the tensors",
            )

    def holds(self, state: State) -> bool:
        """Whether all files are those of a state, by their digests."""
        try:
            for file, memory in enumerate(self.memory):
                self.check(file, state, [memory])
        except IntegrityError:
            return False
        return True

    def named(self) -> dict[str, Tensor]:
        """All tensors by name; one that several files have is preceded by the file and a colon."""
        tensors = self.layout.tensors
        counts = Counter(tensor.name for tensor in tensors)
        found = {}
        for tensor in tensors:
            path = self.release.files[tensor.file].path
            found[tensor.name if counts[tensor.name] == 1 else f"{path}:{tensor.name}"] = tensor
        return found

    def bytes_of(self, tensor: Tensor) -> memoryview:
        """A tensor's memory, writable."""
        return self.memory[tensor.file][tensor.offset : tensor.offset + tensor.length]

    def arrays(self, *, writable: bool) -> dict[str, np.ndarray[Any, Any]]:
        """All tensors as views of the memory, by the names of `named`.

        A tensor whose dtype NumPy cannot express is its bytes.
        """
        return {name: self._array(tensor, writable) for name, tensor in self.named().items()}

    def _array(self, tensor: Tensor, writable: bool) -> np.ndarray[Any, Any]:
        import numpy as np

        part = self.bytes_of(tensor)
        dtype = numpy_dtype(tensor.dtype)
        shape: tuple[int, ...] = tensor.shape
        if dtype is None:
            dtype, shape = np.dtype(np.uint8), (tensor.length,)
        array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, part if tensor.length else None)
        array.flags.writeable = writable
        return array

    def carried(self) -> Mapping[str, memoryview]:
        """The bytes of each file by path, read-only."""
        files = self.release.files
        pairs = zip(files, self.memory, strict=True)
        return {file.path: memory.toreadonly() for file, memory in pairs}
