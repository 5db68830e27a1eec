"""The list of objects in a store that no manifest names, or soon none will.

It is written before objects are uploaded and before a manifest drops some, so that the next
publisher can delete what a killed one left, and nothing that is somebody else's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping

from p2u.errors import ConflictError, FormatError, NotFoundError, P2UError
from p2u.package.paths import check_path
from p2u.package.strict_json import parse_object
from p2u.stores.backoff import Retry
from p2u.stores.retrying import with_retries
from p2u.stores.writable import ABSENT, WritableStore

#: The key of the list.
UNUSED = "p2u-unused.json"
#: Seconds for which objects stay whose upload has begun but was not published.
UPLOADING = 24 * 3600.0
_LIMIT = 64 << 20
_NODES = 4 << 20
#: Publishers that change the list at the same time.
_TRIES = 20

Due = dict[str, float]


class UnusedObjects:
    """The list in one store.

    Args:
        store: The store.
        retry: When to try again.
    """

    def __init__(self, store: WritableStore, retry: Retry) -> None:
        self._store = store
        self._retry = retry

    def add(self, found: Mapping[str, float]) -> None:
        """Have keys in the list, each with the second (since 1970) from which on it may go."""
        if found:
            self._change(lambda due: {**due, **found})

    def delete(self, used: Collection[str]) -> int:
        """Delete what is due and not used; returns the number of objects deleted.

        Args:
            used: The keys that a manifest names: they leave the list.
        """
        now = time.time()
        gone: list[str] = []

        def change(due: Due) -> Due:
            gone[:] = [key for key, at in due.items() if key not in used and at <= now]
            return {key: at for key, at in due.items() if key not in used and at > now}

        self._change(change)
        if gone:
            with_retries(lambda: self._store.delete(gone), self._retry)
        return len(gone)

    def _change(self, change: Callable[[Due], Due]) -> None:
        for _ in range(_TRIES):
            due, tag = with_retries(self._read, self._retry)
            wanted = change(due)
            if wanted == due:
                return
            data = json.dumps(wanted, indent=1).encode() + b"\n"
            # With a deferred store, the manifest's own condition covers the list.
            condition = None if self._store.deferred else tag
            try:
                with_retries(
                    lambda: self._store.put(UNUSED, data, tag=condition),  # noqa: B023
                    self._retry,
                )
                return
            except ConflictError:
                continue
        raise ConflictError(
            "is changed by others again and again",
            file=f"{self._store.url}/{UNUSED}",
            hint="Too many publishers use this package at the same time",
        )

    def _read(self) -> tuple[Due, str]:
        try:
            if self._store.deferred:
                data, tag = self._store.read(UNUSED, limit=_LIMIT), ""
            else:
                data, tag = self._store.read_tagged(UNUSED, limit=_LIMIT)
        except NotFoundError:
            return {}, ABSENT
        try:
            tree = parse_object(data, file=UNUSED, nodes=_NODES)
        except FormatError:
            return {}, tag
        found: Due = {}
        for key, at in tree.items():
            try:
                check_path(key, "key")
            except P2UError:
                continue
            if isinstance(at, int | float):
                found[key] = float(at)
        return found, tag
