"""Publish to a store: all new objects first, the manifest last and on condition."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from p2u.errors import ConflictError, NotFoundError, StoreError
from p2u.package.keys import checked_bytes, keys, sizes, with_keys
from p2u.package.manifest import MAX_MANIFEST, Manifest
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY
from p2u.replication.unused import UPLOADING, UnusedObjects
from p2u.stores.backoff import Retry
from p2u.stores.local import LocalStore
from p2u.stores.retrying import with_retries
from p2u.stores.upload import upload
from p2u.stores.writable import ABSENT, Content, WritableStore


class Publication:
    """A package in a store while we publish to it. Readers see its old state, or the new one.

    Whoever dies leaves objects that no manifest names; the next one deletes them a day later, or
    goes on with them.

    Args:
        store: The place; open.
        retry: When to try again.

    Attributes:
        manifest: The package as it was read; None if there is none.

    Raises:
        StoreError, FormatError, UnsupportedError: The manifest cannot be read.
    """

    def __init__(self, store: WritableStore, retry: Retry | None = None) -> None:
        self.store = store
        self.retry = retry or Retry()
        self.manifest: Manifest | None = None
        self._tag = ABSENT
        # The publishers on one machine have a lock, and their own list.
        self._unused = None if isinstance(store, LocalStore) else UnusedObjects(store, self.retry)
        try:
            data, self._tag = with_retries(
                lambda: store.read_tagged(MANIFEST_KEY, limit=MAX_MANIFEST), self.retry
            )
            self.manifest = parse_manifest(data)
        except NotFoundError:
            pass

    def announce(self, names: set[str]) -> None:
        """List objects before they are uploaded one by one by somebody else than `commit`."""
        if self._unused is not None and not self.store.deferred:
            self._unused.add(dict.fromkeys(sorted(names), time.time() + UPLOADING))

    def commit(
        self,
        manifest: Manifest,
        contents: Mapping[str, Content],
        *,
        grace: float = 0.0,
        report: Callable[[int], None] | None = None,
    ) -> Manifest:
        """Publish.

        Args:
            manifest: The package as it is to be.
            contents: Its new objects, by key.
            grace: Seconds for which objects stay that it does not name any more.
            report: See `upload`.

        Returns:
            The manifest that was published: objects whose keys were taken have other ones.

        Raises:
            ConflictError: Somebody else has published meanwhile. Nothing of theirs is touched.
            UsageError: The package would have too many files.
            StoreError, DiskError: The package is as it was.
        """
        checked_bytes(manifest, self.store.url)
        self.announce(set(contents))
        names = upload(self.store, contents, retry=self.retry, report=report)
        if names:
            manifest = with_keys(manifest, names)
            self.announce(set(names.values()))
        data = checked_bytes(manifest, self.store.url)
        self._check_complete(manifest)
        gone = keys(self.manifest) - keys(manifest) if self.manifest is not None else set()
        if self._unused is not None:
            self._unused.add(dict.fromkeys(sorted(gone), time.time() + grace))
        self._put(data)
        self.manifest = manifest
        self.clean(gone)
        return manifest

    def clean(self, gone: set[str] | None = None) -> int:
        """Delete what is due; returns the number of objects deleted.

        Args:
            gone: What a folder's manifest has just dropped.
        """
        if self._unused is None:
            self.store.delete(gone or set())
            return len(gone or set())
        return self._unused.delete(keys(self.manifest) if self.manifest is not None else ())

    def _put(self, data: bytes) -> None:
        """Replace the manifest if it is still the one that was read."""
        failed = False

        def put() -> None:
            nonlocal failed
            try:
                self.store.put(MANIFEST_KEY, data, tag=self._tag)
            except StoreError:
                failed = True
                raise

        try:
            with_retries(put, self.retry)
        except ConflictError as error:
            # An answer that got lost may have been that it was put.
            if failed and self._read() == data:
                return
            raise ConflictError(
                "somebody else published to this package meanwhile; nothing of theirs was touched",
                file=f"{self.store.url}/{MANIFEST_KEY}",
                hint="Publish again, or give each publisher a package of its own",
            ) from error

    def _read(self) -> bytes:
        return with_retries(lambda: self.store.read(MANIFEST_KEY, limit=MAX_MANIFEST), self.retry)

    def _check_complete(self, manifest: Manifest) -> None:
        """Raise StoreError unless the store has all objects of a manifest."""
        there = with_retries(
            lambda: {found.key: found.size for found in self.store.list_objects()}, self.retry
        )
        for key, size in sizes(manifest).items():
            if there.get(key) != size:
                raise StoreError(
                    f"has {there.get(key, 'no')} bytes after the upload, expected {size}",
                    file=f"{self.store.url}/{key}",
                    hint="Somebody removed or replaced it; publish again",
                )
