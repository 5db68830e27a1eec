"""A model at hand: its files on the disk or in a store, its tensors, a reader of their bytes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2u.disk.errors import disk_errors
from p2u.disk.files import read_from
from p2u.errors import IntegrityError
from p2u.formats import ScannedModel
from p2u.package.geometry import Span
from p2u.package.layout import Layout, Tensor
from p2u.packing.chunking.source import ModelSource, look_again
from p2u.stores.backoff import Retry
from p2u.stores.base import Store
from p2u.stores.retrying import Retrying
from p2u.stores.schemes import open_store
from p2u.types import BLOCKS, ModelFile

#: A sample: this many runs of so many elements, which all blocks of quantised types divide.
RUNS, RUN = 8, 512
#: Bytes hashed at once.
PIECE = 4 << 20

_CHANGED = "It was changed while it was packed: pack again"


class StoredModel:
    """The files of a model, by number, and its tensors. Thread-safe; holds no file open.

    May be pickled: another process reads the same paths or URL.

    Args:
        scanned: The files.
        layout: The tensors in them.
        source: Where they are, if they are in a store.
    """

    def __init__(
        self, scanned: ScannedModel, layout: Layout, source: ModelSource | None = None
    ) -> None:
        self.layout = layout
        self._scanned = scanned
        self._source = None if source is None or source.url is None else source
        self._paths = [scanned.locate(file.path) for file in scanned.files]
        self._seen: list[tuple[int, ...]] = []
        self._store: Store | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # The layout has all that is needed of the spans; other processes have other folders.
        files = tuple(replace(file, spans=()) for file in self.files)
        scanned = ScannedModel(str(Path(self._scanned.root).absolute()), files)
        source = None if self._source is None else ModelSource(scanned, self._source.url)
        return StoredModel, (scanned, self.layout, source)

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """All files."""
        return self._scanned.files

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the layout."""
        return self.layout.tensors

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def with_layout(self, layout: Layout) -> StoredModel:
        """The same files with other rows: those of a release that has these very files."""
        return StoredModel(self._scanned, layout, self._source)

    def remember(self) -> None:
        """Take note of the files as they are now, for `check_unchanged`.

        Raises:
            DiskError: One cannot be looked at.
        """
        self._seen = [] if self._source is not None else self._look()

    def check_unchanged(self) -> None:
        """Raise IntegrityError if a file was written since `remember`.

        Raises:
            DiskError, StoreError: One cannot be looked at any more.
        """
        if self._source is not None:
            if look_again(self._source) != self._source.objects:
                raise IntegrityError(
                    "it was written to meanwhile", file=self._source.url, hint=_CHANGED
                )
            return
        for file, before, now in zip(self.files, self._seen, self._look(), strict=True):
            if before != now:
                raise IntegrityError("it was written to meanwhile", file=file.path, hint=_CHANGED)

    def _look(self) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for file, path in zip(self.files, self._paths, strict=True):
            with disk_errors(file.path, "read"):
                about = Path(path).stat()
            found.append((about.st_size, about.st_mtime_ns, about.st_ino))
        return found

    def read_into(self, file: int, offset: int, out: memoryview) -> None:
        """Fill ``out`` from a file.

        Raises:
            DiskError, StoreError: It cannot be read.
            IntegrityError: It has become shorter.
        """
        if self._source is not None:
            self._fetch_into(file, offset, out)
            return
        entry = self.files[file]
        with disk_errors(entry.path, "read"):
            count = read_from(self._paths[file], offset, out)
        if count < len(out):
            raise IntegrityError(
                f"it ended at byte {offset + count}, of {entry.size}",
                file=entry.path,
                hint=_CHANGED,
            )

    def _fetch_into(self, file: int, offset: int, out: memoryview) -> None:
        assert self._source is not None
        assert self._source.url is not None
        with self._lock:
            if self._store is None:
                self._store = Retrying(open_store(self._source.url), Retry())
        at = 0
        with closing(self._store.stream(self.files[file].path, offset, len(out))) as pieces:
            for piece in pieces:
                out[at : at + len(piece)] = piece
                at += len(piece)

    def read(self, file: int, offset: int, size: int) -> bytearray:
        """The bytes of a file from ``offset`` on; raises as `read_into`."""
        out = bytearray(size)
        self.read_into(file, offset, memoryview(out))
        return out

    def read_spans(self, spans: Sequence[Span], buffers: Sequence[memoryview]) -> None:
        """Fill one buffer for each span; raises as `read_into`."""
        for span, buffer in zip(spans, buffers, strict=True):
            self.read_into(span.file, span.offset, buffer)

    def elements(self, t: Tensor) -> int:
        """Elements of a tensor, where blocks count as the elements that they hold."""
        if t.dtype in BLOCKS:
            elems, size = BLOCKS[t.dtype]
            return t.length // size * elems
        return t.elems

    def read_elements(self, t: Tensor, first: int, count: int) -> bytes:
        """The bytes of some elements; of whole blocks."""
        item, per = t.item, 1
        if t.dtype in BLOCKS:
            per, item = BLOCKS[t.dtype]
        return bytes(self.read(t.file, t.offset + first // per * item, count // per * item))

    def sample(self, t: Tensor, count: int) -> bytes:
        """Some of a tensor's first ``count`` elements, evenly spread, or all of them."""
        if count <= RUNS * RUN:
            return self.read_elements(t, 0, count)
        last = (count - RUN) // RUN
        starts = (last * k // (RUNS - 1) * RUN for k in range(RUNS))
        return b"".join(self.read_elements(t, start, RUN) for start in starts)

    def hash_file(self, number: int) -> str:
        """SHA-256 of a file in hex; raises as `read_into`."""
        digest = hashlib.sha256()
        size = self.files[number].size
        for at in range(0, size, PIECE):
            digest.update(self.read(number, at, min(PIECE, size - at)))
        return digest.hexdigest()
