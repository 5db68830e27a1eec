"""Buckets: ``s3://bucket/folder``, ``gs://bucket/folder`` and ``az://container/folder``.

The library obstore (the extra ``cloud``) speaks the protocols; `p2u.stores.cloud_settings` finds
what it does not find itself in the usual variables and files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from p2u.errors import (
    FormatError,
    NotFoundError,
    StoreError,
    UnsupportedError,
    UsageError,
)
from p2u.package.paths import MANIFEST_KEY, check_path
from p2u.stores.base import (
    PIECE,
    StoreOptions,
    check_range,
    closed_error,
    too_large,
    too_short,
)
from p2u.stores.writable import (
    ABSENT,
    Content,
    StoredObject,
    WritableStore,
    bytes_of,
    conflict,
    sha256_of,
    size_of,
)

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore

#: Objects up to this size are put in one request, which may have a condition; larger ones in parts.
WHOLE = 64 << 20
#: Bytes of a part.
_PART = 16 << 20

_STATUS = re.compile(r"(?:status code: |status: )(\d{3})\b")
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Failures of the network, as the library words them.
_NETWORK = re.compile(
    r"error sending request|timed out|timeout|connection|connect error|body error|decoding response"
    r"|incomplete|end of file|reset|dns",
    re.IGNORECASE,
)
_EXPIRED = re.compile(r"ExpiredToken|RequestExpired|token (?:has|is) expired", re.IGNORECASE)
_DENIED = "Check the credentials in the environment: docs/stores.md lists the variables and files"


class CloudStore(WritableStore):
    """The objects below a prefix of a bucket.

    Args:
        url: The place of a package, or of its ``p2u.json``.
        options: See `StoreOptions`; ``headers`` mean nothing here.

    Raises:
        UsageError: ``url`` names no bucket.
        UnsupportedError: obstore is not installed.
    """

    def __init__(self, url: str, options: StoreOptions) -> None:
        parts = urlsplit(url)
        if not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
            raise UsageError(
                "not the URL of a bucket",
                file=url.split("?")[0].split("@")[-1],
                hint=f"Write {parts.scheme}://bucket/folder; credentials are read from variables",
            )
        path = unquote(parts.path).strip("/")
        if path == MANIFEST_KEY or path.endswith(f"/{MANIFEST_KEY}"):
            path = path[: -len(MANIFEST_KEY)].rstrip("/")
        self._prefix = f"{path}/" if path else ""
        self.url = f"{parts.scheme}://{parts.netloc}/{path}".rstrip("/")
        self._scheme = parts.scheme.lower()
        try:
            import obstore
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                f"{self._scheme}:// URLs need the library obstore",
                file=self.url,
                hint="Install it: pip install 'p2u-models[cloud]'",
            ) from error
        self._obstore = obstore
        self._store = _connect(self._scheme, parts.netloc, options, self.url)
        self._closed = False

    @property
    def remote(self) -> bool:
        """See `Store.remote`."""
        return True

    @property
    def knows_ranges(self) -> bool:
        """See `Store.knows_ranges`: every bucket has ranges."""
        return True

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        return self._read(key, limit)[0]

    def read_tagged(self, key: str, *, limit: int) -> tuple[bytes, str]:
        """See `WritableStore.read_tagged`."""
        data, found = self._read(key, limit)
        return data, json.dumps([found.meta["e_tag"], found.meta["version"]])

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`; asks unless it is the same (If-None-Match)."""
        digest, etag = json.loads(mark) if mark else ("", None)
        found = self._get(key, {"if_none_match": etag} if etag else {})
        if found is None:
            return None, mark
        data = self._whole(key, limit, found)
        now = hashlib.sha256(data).hexdigest()
        return (None if now == digest else data), json.dumps([now, found.meta["e_tag"]])

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        check_path(key, "key")
        check_range(start, length)
        return self._stream(key, start, length)

    def find(self, key: str) -> StoredObject | None:
        """See `WritableStore.find`; its SHA-256 is known if `put` wrote it."""
        try:
            found = self._get(key, {"head": True})
        except NotFoundError:
            return None
        assert found is not None
        return StoredObject(key, found.meta["size"], dict(found.attributes).get("sha256"))

    def put(self, key: str, content: Content, *, tag: str | None = None) -> None:
        """See `WritableStore.put`.

        A new object of more than `WHOLE` bytes is looked up first, and put without a condition.
        """
        path, name = self._path(key), self._name(key)
        whole = size_of(content) <= WHOLE
        if not whole and tag is not None:
            if tag != ABSENT:
                raise UsageError(f"more than {WHOLE} bytes cannot be put on condition", file=name)
            if self.find(key) is not None:
                raise conflict(name, tag)
            tag = None
        body = bytes_of(content) if whole else content
        with self._errors(key, tag):
            self._obstore.put(
                self._store,
                path,
                body,
                attributes=_attributes(key, sha256_of(body)),
                mode=_mode(tag),
                use_multipart=not whole,
                chunk_size=_PART,
                max_concurrency=4,
            )

    def list_objects(self) -> Iterator[StoredObject]:
        """See `WritableStore.list_objects`."""
        with self._errors(""):
            for batch in self._obstore.list(self._store, self._prefix or None):
                for meta in batch:
                    key = meta["path"].removeprefix(self._prefix)
                    with contextlib.suppress(FormatError):
                        check_path(key, "key")
                        yield StoredObject(key, meta["size"], etag=meta["e_tag"])

    def delete(self, keys: Iterable[str]) -> None:
        """See `WritableStore.delete`."""
        for key in keys:
            with contextlib.suppress(NotFoundError), self._errors(key):
                self._obstore.delete(self._store, self._path(key))

    def close(self) -> None:
        """Transfers under way end with a StoreError at their next piece, or its time-out."""
        self._closed = True

    def _read(self, key: str, limit: int) -> tuple[bytes, GetResult]:
        found = self._get(key, {})
        assert found is not None
        return self._whole(key, limit, found), found

    def _whole(self, key: str, limit: int, found: GetResult) -> bytes:
        """All of an object that is not to be larger than ``limit``."""
        size = found.meta["size"]
        if size > limit:
            raise too_large(self._name(key), limit, size)
        with self._errors(key):
            data = bytes(found.bytes())
        if len(data) != size:
            raise self._cut_off(key, size - len(data))
        return data

    def _stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        if length == 0:
            return
        try:
            found = self._get(key, {"range": (start, start + length)})
        except StoreError as error:
            # Behind the end: what the library says of it differs from store to store.
            here = None
            if not error.retryable:
                with contextlib.suppress(StoreError):  # the first one says more: HEAD has no body
                    here = self.find(key)
            if here is None or here.size >= start + length:
                raise
            raise too_short(self._name(key), here.size, start, length) from error
        assert found is not None
        size = found.meta["size"]
        if size < start + length:
            raise too_short(self._name(key), size, start, length)
        left = length
        pieces = iter(found.stream(min_chunk_size=PIECE))
        while left:
            if self._closed:
                raise closed_error(self._name(key))
            with self._errors(key):
                chunk = bytes(next(pieces, b""))
            if not chunk:
                raise self._cut_off(key, left)
            chunk = chunk[:left]
            for at in range(0, len(chunk), PIECE):
                piece = chunk[at : at + PIECE]
                left -= len(piece)
                yield piece

    def _get(self, key: str, options: dict[str, Any]) -> GetResult | None:
        """The answer to one request; None if nothing has changed."""
        path = self._path(key)
        try:
            with self._errors(key):
                return self._obstore.get(self._store, path, options=options)  # type: ignore[arg-type]
        except _NotModified:
            return None

    def _path(self, key: str) -> str:
        check_path(key, "key")
        if self._closed:
            raise closed_error(self._name(key))
        return self._prefix + key

    def _name(self, key: str) -> str:
        return f"{self.url}/{key}" if key else self.url

    def _cut_off(self, key: str, missing: int) -> StoreError:
        return StoreError(
            f"the connection ended {missing} bytes too early",
            file=self._name(key),
            hint="Check the network; what has arrived is kept",
            retryable=True,
        )

    @contextmanager
    def _errors(self, key: str, tag: str | None = None) -> Iterator[None]:
        """Turn the library's errors into ours."""
        from obstore import exceptions

        name = self._name(key)
        _requests_here(name)
        try:
            yield
        except FileNotFoundError as error:
            if tag is not None:  # some stores answer so where an object to replace is gone
                raise conflict(name, tag) from error
            raise NotFoundError(
                "not found", file=name, hint="Check the bucket and the folder"
            ) from error
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            raise conflict(name, ABSENT if tag is None else tag) from error
        except exceptions.NotModifiedError as error:
            raise _NotModified from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise StoreError("access denied", file=name, hint=_DENIED) from error
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise _store_error(error, name) from error


#: The process whose threads answer obstore's requests, from its first one on.
_requesting: int | None = None


def _requests_here(name: str) -> None:
    """Refuse requests in a forked child of a process that has made some: they would never end.

    Raises:
        UsageError: This is such a child.
    """
    global _requesting
    if _requesting is None:
        _requesting = os.getpid()
    elif _requesting != os.getpid():
        raise UsageError(
            "this process was forked from one that had used a bucket: its requests would never end",
            file=name,
            hint="Start processes with spawn or forkserver, or use buckets only after the fork",
        )


class _NotModified(Exception):  # noqa: N818 - an answer, not an error
    """The object is the one of the mark."""


def _connect(scheme: str, bucket: str, options: StoreOptions, url: str) -> ObjectStore:
    """The library's store, with the settings of the environment.

    Raises:
        UsageError: They are not valid.
    """
    from datetime import timedelta

    from obstore import exceptions, store

    from p2u.stores import cloud_settings

    client: Any = {
        "connect_timeout": timedelta(seconds=options.connect_timeout),
        # Of one read: a whole object may take as long as it needs.
        "read_timeout": timedelta(seconds=options.stall_timeout),
        "timeout": timedelta(days=1),
        "user_agent": "p2u",
    }
    # Our callers retry: they know what they have already.
    retry: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=options.stall_timeout)}
    settings: Any = cloud_settings.of(scheme)
    if cloud_settings.is_plain(settings):
        client["allow_http"] = True
    given: dict[str, Any] = {}
    if scheme == "s3" and (provider := cloud_settings.aws_provider(url)) is not None:
        given["credential_provider"] = provider
    classes: dict[str, Any] = {
        "s3": store.S3Store,
        "gs": store.GCSStore,
        "az": store.AzureStore,
    }
    try:
        made: ObjectStore = classes[scheme](
            bucket, config=settings, client_options=client, retry_config=retry, **given
        )
    except (exceptions.BaseError, ValueError, OSError) as error:
        raise UsageError(
            f"cannot be opened: {_first_line(error)}", file=url, hint=_DENIED
        ) from error
    return made


def _attributes(key: str, digest: str) -> Any:
    """What the store keeps with an object."""
    found = {"sha256": digest}
    if key == MANIFEST_KEY:  # the one that is replaced: caches on the way are to ask
        found["Cache-Control"] = "no-cache"
    return found


def _mode(tag: str | None) -> Any:
    """How the library is to put an object."""
    if tag is None:
        return "overwrite"
    if tag == ABSENT:
        return "create"
    etag, version = json.loads(tag)
    known = {"e_tag": etag, "version": version}
    return {name: value for name, value in known.items() if value is not None}


def _first_line(error: BaseException) -> str:
    """What the library says, short, without the query of a URL, which may have credentials."""
    text = str(error).split("\n", 1)[0].split("Debug source")[0]
    return re.sub(r"\?\S+", "", text).strip()[:300]


def _store_error(error: BaseException, name: str) -> StoreError:
    text = str(error).split("Debug source")[0]
    said = _first_line(error)
    found = _STATUS.search(text)
    status = int(found[1]) if found else None
    if status in (401, 403) or _EXPIRED.search(text):
        what = (
            "access denied: the credentials have expired"
            if _EXPIRED.search(text)
            else (f"access denied (the store answered {status})")
        )
        return StoreError(what, file=name, hint=_DENIED)
    if status is not None:
        retryable = status in _RETRYABLE
        hint = "The store is busy or down; try again later" if retryable else "Check the URL"
        return StoreError(f"the store answered {status}", file=name, hint=hint, retryable=retryable)
    if "credential" in text.lower() or "token request" in text.lower():
        return StoreError(f"no credentials were found ({said})"[:300], file=name, hint=_DENIED)
    return StoreError(
        said,
        file=name,
        hint="Check the network and the URL",
        retryable=bool(_NETWORK.search(text)),
    )
