"""The model's files in memory, refined where they lie."""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from p2u._client.decode import decode
from p2u._client.package import Package, Span, chunk_spans
from p2u._client.target import changed_files
from p2u.errors import IntegrityError
from p2u.index import Chunk
from p2u.layout import Tensor
from p2u.manifest import Update
from p2u.types import ITEMSIZE

if TYPE_CHECKING:
    import numpy as np

#: NumPy's names; those that NumPy lacks are of ml_dtypes.
_NUMPY = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


def numpy_dtype(name: str) -> np.dtype[Any] | None:
    """NumPy's dtype for safetensors' name of one; None if there is none."""
    import numpy as np

    if name in _NUMPY:
        return np.dtype(_NUMPY[name])
    if name in _ML_DTYPES:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
        return found
    return None


class Files:
    """All bytes of all files of a package, and updates applied to them in place.

    Args:
        package: Open.
        check: Whether to compare each file with its SHA-256 whenever a state is complete.
    """

    def __init__(self, package: Package, check: bool) -> None:
        self._package = package
        self._check = check
        # Anonymous memory: pages exist from their first write on.
        self.memory = [
            memoryview(mmap.mmap(-1, file.size)) if file.size else memoryview(bytearray())
            for file in package.manifest.files
        ]
        self._lock = threading.Lock()
        self._left: Counter[int] = Counter()

    def start(self, update: Update, chunks: Sequence[Chunk]) -> None:
        """Get ready for the chunks of an update."""
        self._update = update
        states = [state.id for state in self._package.manifest.states]
        self._number = states.index(update.target)
        self._left = Counter()
        for chunk in chunks:
            self._left.update({span.file for span in chunk_spans(chunk, self._package.layout)})
        for file in changed_files(self._package.manifest, update):
            if not self._left[file]:
                self._hash(file)

    def apply(self, chunk: Chunk, payload: memoryview) -> None:
        """Decode one chunk into place; in any thread."""
        spans = chunk_spans(chunk, self._package.layout)
        buffers = [self.memory[s.file][s.offset : s.offset + s.size] for s in spans]
        key = self._update.blobs[chunk.blob].key
        decode(chunk, payload, self._package.layout, spans, buffers, key)
        self._complete(spans)

    def _complete(self, spans: Sequence[Span]) -> None:
        complete = []
        with self._lock:
            for file in {span.file for span in spans}:
                self._left[file] -= 1
                if not self._left[file]:
                    complete.append(file)
        for file in complete:
            self._hash(file)

    def _hash(self, file: int) -> None:
        if not self._check:
            return
        entry = self._package.manifest.files[file]
        found = hashlib.sha256(self.memory[file]).hexdigest()
        if found != entry.digest(self._number):
            raise IntegrityError(
                f"SHA-256 {found} after the update to {self._update.target}, expected "
                f"{entry.digest(self._number)}",
                file=entry.path,
                hint="The program that made the package is faulty, or this computer's memory",
            )

    def arrays(self, *, writable: bool) -> dict[str, np.ndarray[Any, Any]]:
        """All tensors by name as views of the memory.

        A name that several files have is preceded by the file and a colon. A tensor whose dtype
        NumPy cannot express is its bytes.
        """
        tensors = self._package.layout.tensors
        counts = Counter(tensor.name for tensor in tensors)
        found = {}
        for tensor in tensors:
            path = self._package.manifest.files[tensor.file].path
            name = tensor.name if counts[tensor.name] == 1 else f"{path}:{tensor.name}"
            found[name] = self._array(tensor, writable)
        return found

    def _array(self, tensor: Tensor, writable: bool) -> np.ndarray[Any, Any]:
        import numpy as np

        part = self.memory[tensor.file][tensor.offset : tensor.offset + tensor.length]
        dtype = numpy_dtype(tensor.dtype) if tensor.dtype in ITEMSIZE else None
        shape: tuple[int, ...] = tensor.shape
        if dtype is None:
            dtype, shape = np.dtype(np.uint8), (tensor.length,)
        array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, part if tensor.length else None)
        array.flags.writeable = writable
        return array

    def carried(self) -> Mapping[str, memoryview]:
        """The bytes of each file by path, read-only."""
        files = self._package.manifest.files
        pairs = zip(files, self.memory, strict=True)
        return {file.path: memory.toreadonly() for file, memory in pairs}
