"""The model's files in memory, and its tensors as views of them."""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from p2u.client.live.places import Placed, first_places
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import IntegrityError, LimitError
from p2u.package.layout import Tensor
from p2u.package.manifest import Release, State
from p2u.types import NUMPY_NAMES, packed_shape

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
    """Zeroed memory whose pages exist from their first write on.

    Raises:
        LimitError: There is not as much.
    """
    try:
        return _allocate(size)
    except (OSError, OverflowError, MemoryError) as error:
        raise LimitError(
            f"{size} bytes of memory are needed for one file of the model, and cannot be had",
            hint="Pull the package to a folder; max_bytes= refuses packages that ask for too much",
        ) from error


def _allocate(size: int) -> memoryview:
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
    """All bytes of all files of a state; tensors stay where they are when another one comes.

    Args:
        package: Open.
        release: The one that comes first; others of the same tensors may follow.
        memory: Of its files, in order; by default new.

    Attributes:
        manifest: The one that the state is of.
        first: The release that came first, with its tensors.
        regions: The memory, by number; those of the first release's files have the files' numbers.
        here: The release of the state that the memory holds, with the places of its bytes.
        used: Numbers of the first release's tensors that somebody uses; None: all of them. Later
            releases need to have these only.
    """

    def __init__(
        self, package: PackageReader, release: Release, memory: list[memoryview] | None = None
    ) -> None:
        self.manifest = package.manifest
        self.first = package.model(release)
        self.here = Placed(self.first, first_places(self.first))
        self.used: frozenset[int] | None = None
        # Anonymous memory: pages exist from their first write on.
        files = memory or [allocate(file.size) for file in release.files]
        self.regions = dict(enumerate(files))
        self._spare: dict[int, memoryview] = {}
        self._count = len(files)

    @property
    def release(self) -> Release:
        """The release of the state that the memory holds."""
        return self.here.model.release

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The path of each tensor's file in the state here, and the tensor, to give `bytes_of`."""
        model, places = self.here.model, self.here.places
        for tensor, number in zip(model.tensors, places.tensors, strict=True):
            if number is not None:
                yield model.files[tensor.file].path, self.first.tensors[number]

    def use(self, tensors: Iterable[Tensor]) -> None:
        """Let only some tensors, of those that `tensors` gives, count for later releases."""
        used = {id(tensor) for tensor in tensors}
        self.used = frozenset(n for n, t in enumerate(self.first.tensors) if id(t) in used)

    def used_here(self) -> frozenset[int] | None:
        """The numbers that the tensors in use have in the release here; None: all of them."""
        if self.used is None:
            return None
        numbers = enumerate(self.here.places.tensors)
        return frozenset(number for number, first in numbers if first in self.used)

    def add_region(self, size: int) -> int:
        """New zeroed memory for bytes between tensors; returns the number of the region."""
        number, self._count = self._count, self._count + 1
        self._spare[number] = self.regions[number] = allocate(size)
        return number

    def spare(self, regions: Iterable[int]) -> dict[int, memoryview]:
        """Memory like these regions, of any content, for the next state; until `drop_spare`."""
        for number in regions:
            if number not in self._spare:
                self._spare[number] = allocate(len(self.regions[number]))
        return self._spare

    def spare_nothing(self) -> None:
        """Nobody uses the memory yet: the next state is made where it will be."""
        self._spare = dict(self.regions)

    def drop_spare(self) -> None:
        """Free what `spare` gave, and regions that nothing is in, as soon as nobody uses them."""
        self._spare = {}
        used = self.here.places.regions | {tensor.file for tensor in self.first.tensors}
        self.regions = {n: memory for n, memory in self.regions.items() if n in used}

    def parts(self, file: int) -> Iterator[memoryview]:
        """The bytes of a file of the state here, in order."""
        for part in self.here.places.files[file]:
            yield self.regions[part.region][part.at : part.at + part.size]

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
            for file in range(len(self.release.files)):
                self.check(file, state, self.parts(file))
        except IntegrityError:
            return False
        return True

    def named(self) -> dict[str, Tensor]:
        """All tensors by name; one that several files have is preceded by the file and a colon.

        Those that the first release did not have are left out.
        """
        counts = Counter(tensor.name for tensor in self.first.tensors)
        here = sorted(number for number in self.here.places.tensors if number is not None)
        found = {}
        for tensor in (self.first.tensors[number] for number in here):
            path = self.first.files[tensor.file].path
            found[tensor.name if counts[tensor.name] == 1 else f"{path}:{tensor.name}"] = tensor
        return found

    def bytes_of(self, tensor: Tensor) -> memoryview:
        """The memory of a tensor of the first release, writable."""
        return self.regions[tensor.file][tensor.offset : tensor.offset + tensor.length]

    def arrays(self, *, writable: bool) -> dict[str, np.ndarray[Any, Any]]:
        """All tensors as views of the memory, by the names of `named`.

        A tensor whose dtype NumPy cannot express is its bytes; packed ones keep their shape but for
        the last dimension.
        """
        return {
            name: array_of(tensor, self.bytes_of(tensor), writable=writable)
            for name, tensor in self.named().items()
        }

    def files(self) -> Mapping[str, memoryview]:
        """The bytes of each file of the state here by path, read-only."""
        return _FileBytes(self)


def array_of(tensor: Tensor, memory: memoryview, *, writable: bool) -> np.ndarray[Any, Any]:
    """A tensor as a view of its memory; see `ModelMemory.arrays`."""
    import numpy as np

    dtype = numpy_dtype(tensor.dtype)
    shape: tuple[int, ...] = tensor.shape
    if dtype is None:
        shape = packed_shape(tensor.dtype, tensor.shape)
        dtype = np.dtype(np.uint8)
        if math.prod(shape) != tensor.length:
            shape = (tensor.length,)
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, memory if tensor.length else None)
    array.flags.writeable = writable
    return array


class _FileBytes(Mapping[str, memoryview]):
    """The files of a state: views, or copies of those that are in several places."""

    def __init__(self, memory: ModelMemory) -> None:
        here, self._regions = memory.here, memory.regions
        paths = (file.path for file in here.model.files)
        self._parts = dict(zip(paths, here.places.files, strict=True))

    def __getitem__(self, path: str) -> memoryview:
        parts = [self._regions[p.region][p.at : p.at + p.size] for p in self._parts[path]]
        whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        return whole.toreadonly()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
