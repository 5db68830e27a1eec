"""The contract that every store keeps which can be written, too."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2u.disk.errors import disk_errors
from p2u.disk.files import hash_file
from p2u.errors import ConflictError
from p2u.stores.base import Store

#: The tag of an object that is not there: a condition of `WritableStore.put`.
ABSENT = ""

#: The content of an object: its bytes, or a file that holds them.
Content = bytes | Path


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a store lists it.

    Attributes:
        key: Of the object.
        size: Bytes.
        sha256: In hex; None where the store does not know it without reading the object.
        git_sha1: Git's digest of it as a blob, in hex; None where it is unknown.
        etag: The store's own mark of the content; None where there is none.
    """

    key: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None
    etag: str | None = None


class WritableStore(Store):
    """Objects that can also be put, listed and deleted. Thread-safe.

    A publisher puts all other objects first and ``p2u.json`` last. Each put is atomic: readers see
    the old object, or the whole new one.
    """

    @property
    def deferred(self) -> bool:
        """Whether objects become visible to others together with the next ``p2u.json`` only."""
        return False

    @abstractmethod
    def put(self, key: str, content: Content, *, tag: str | None = None) -> None:
        """Write an object.

        Args:
            key: Of the object.
            content: Its bytes, or a file that holds them.
            tag: A condition: `ABSENT` (there must be no such object), or the tag that `read_tagged`
                returned (the object must be the same still). None: replace whatever is there.

        Raises:
            ConflictError: The condition does not hold; the object was left alone.
            StoreError: It could not be written (see ``retryable``).
            DiskError: A local file could not be read or written.
            FormatError: ``key`` is not valid.
        """

    @abstractmethod
    def read_tagged(self, key: str, *, limit: int) -> tuple[bytes, str]:
        """A small object, and its tag, for a later `put` on condition.

        Raises:
            The errors of `Store.read`.
        """

    @abstractmethod
    def find(self, key: str) -> StoredObject | None:
        """Look up an object; None if there is none.

        Raises:
            StoreError, DiskError, FormatError: See `Store.read`.
        """

    @abstractmethod
    def list_objects(self) -> Iterator[StoredObject]:
        """All objects, in any order; keys that are not valid are left out.

        Raises:
            StoreError, DiskError: It could not be listed.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error.

        Raises:
            StoreError, DiskError, FormatError: See `put`.
        """

    def __enter__(self) -> WritableStore:
        return self


def size_of(content: Content) -> int:
    """Bytes of a content.

    Raises:
        DiskError: The file cannot be looked at.
    """
    if isinstance(content, bytes):
        return len(content)
    with disk_errors(content, "read"):
        return content.stat().st_size


def sha256_of(content: Content) -> str:
    """SHA-256 of a content in hex.

    Raises:
        DiskError: The file cannot be read.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with disk_errors(content, "read"):
        return hash_file(content, lambda: None)


def bytes_of(content: Content) -> bytes:
    """All bytes of a content.

    Raises:
        DiskError: The file cannot be read.
    """
    if isinstance(content, bytes):
        return content
    with disk_errors(content, "read"):
        return content.read_bytes()


def conflict(where: str, tag: str) -> ConflictError:
    """The error for a `put` whose condition does not hold."""
    if tag == ABSENT:
        return ConflictError(
            "an object with this key is there already",
            file=where,
            hint="Another publisher uses this package; run the command again",
        )
    return ConflictError(
        "it was replaced meanwhile",
        file=where,
        hint="Another publisher uses this package; run the command again",
    )
