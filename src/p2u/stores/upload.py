"""Upload many objects to a store: in parallel, with retries, and none that is there already.

Nothing is ever replaced. Where a key has other content, the object gets another key, which has its
digest: two publishers cannot spoil each other's objects, and a killed one goes on where it was.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from enum import Enum
from functools import partial

from p2u.errors import ConflictError, NotFoundError
from p2u.stores.backoff import Retry
from p2u.stores.retrying import Pause, Retrying, with_retries
from p2u.stores.writable import (
    ABSENT,
    Content,
    StoredObject,
    WritableStore,
    sha256_of,
    size_of,
)

#: Uploads at the same time.
JOBS = 4


def upload(
    store: WritableStore,
    contents: Mapping[str, Content],
    *,
    retry: Retry,
    report: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """Put objects whose content never changes.

    Args:
        store: Where to.
        contents: By key.
        retry: When to try again.
        report: Called with the bytes of each object that is there now; what it raises ends all.

    Returns:
        The keys that had to be other ones: the one wanted, and the one that it became.

    Raises:
        StoreError, DiskError: An object cannot be written or read.
    """
    names: dict[str, str] = {}
    pause = Pause()

    def work(key: str) -> None:
        found, _ = upload_one(store, key, contents[key], retry, pause)
        if found != key:
            names[key] = found

    with ThreadPoolExecutor(JOBS, thread_name_prefix="p2u-upload") as pool:
        tasks = {pool.submit(work, key): key for key in contents}
        try:
            for task in as_completed(tasks):
                task.result()
                if report is not None:
                    report(size_of(contents[tasks[task]]))
        except BaseException:
            pause.end()
            for task in tasks:
                task.cancel()
            raise
    return names


def upload_one(
    store: WritableStore,
    key: str,
    content: Content,
    retry: Retry,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[str, bool]:
    """Put one object; see `upload`.

    Args:
        store: Where to.
        key: Of the object.
        content: Its bytes.
        retry: When to try again.
        sleep: See `with_retries`.

    Returns:
        Its key, and whether it was not there already.
    """
    digest = sha256_of(content)
    for wanted in (key, _renamed(key, digest)):
        attempt = partial(_put_once, store, wanted, content, digest, retry)
        outcome = with_retries(attempt, retry, sleep)
        if outcome is not _Outcome.TAKEN:
            return wanted, outcome is _Outcome.PUT
    # Its name has its digest, but somebody else wrote something else there: only by intent.
    other = _renamed(key, digest)
    with_retries(lambda: store.put(other, content), retry, sleep)
    return other, True


class _Outcome(Enum):
    """The outcome of one try to put an object."""

    PUT = 0
    THERE = 1
    TAKEN = 2


def _put_once(
    store: WritableStore, key: str, content: Content, digest: str, retry: Retry
) -> _Outcome:
    """Put an object unless its key is in use."""
    found = store.find(key)
    if found is None:
        try:
            store.put(key, content, tag=ABSENT)
            return _Outcome.PUT
        except ConflictError:  # somebody else's, or our own after an answer that got lost
            found = store.find(key)
    if found is not None and _same(store, found, content, digest, retry):
        return _Outcome.THERE
    return _Outcome.TAKEN


def _same(
    store: WritableStore, found: StoredObject, content: Content, digest: str, retry: Retry
) -> bool:
    """Whether an object has a content; it is read where the store does not know."""
    if found.size != size_of(content):
        return False
    if found.sha256 is not None:
        return found.sha256 == digest
    here = hashlib.sha256()
    try:
        with closing(Retrying(store, retry).stream(found.key, 0, found.size)) as pieces:
            for piece in pieces:
                here.update(piece)
    except NotFoundError:
        return False
    return here.hexdigest() == digest


def _renamed(key: str, digest: str) -> str:
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{digest[:16]}-{name}"
