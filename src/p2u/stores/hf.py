"""The Hugging Face Hub: ``hf://org/model[@revision][/folder]``, also of datasets and spaces.

Files are read at the Hub's resolve URLs, which redirect to a CDN. Each request asks the Hub anew,
so that no signed URL can expire on the way; the CDN gets no token. The library huggingface_hub (the
extra ``hub``) writes: what is put becomes visible with the commit that has ``p2u.json``.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin

from p2u.errors import (
    FormatError,
    NotFoundError,
    P2UError,
    StoreError,
    UnsupportedError,
    UsageError,
)
from p2u.package.paths import MANIFEST_KEY, check_path
from p2u.stores.base import StoreOptions, check_range, closed_error
from p2u.stores.http.addressed import AddressedStore, DeferredStore
from p2u.stores.writable import (
    ABSENT,
    Content,
    StoredObject,
    bytes_of,
    conflict,
    sha256_of,
    size_of,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

HUB = "https://huggingface.co"
#: Objects up to this size wait in memory for their commit: the Hub may want them within it.
INLINE = 10 << 20

_URL = re.compile(
    r"(?:(?P<kind>models|datasets|spaces)/)?"
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[^/@?#\s]+))?(?P<folder>/[^?#]*)?"
)
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A folder of a repository of the Hub.

    Attributes:
        kind: ``models``, ``datasets`` or ``spaces``.
        repository: ``org/name``.
        revision: A branch, tag or commit.
        folder: Empty, or with a slash at its end.
    """

    kind: str
    repository: str
    revision: str
    folder: str

    @classmethod
    def parse(cls, url: str) -> HubPlace:
        """Parse a URL; raises UsageError if it is not one."""
        found = _URL.fullmatch(url.split("://", 1)[-1])
        if found is None:
            raise UsageError(
                "not the URL of a repository of the Hub",
                file=url.split("?")[0],
                hint="Write hf://org/model, hf://org/model@revision or hf://org/model/folder",
            )
        folder = unquote(found["folder"] or "").strip("/")
        if folder == MANIFEST_KEY or folder.endswith(f"/{MANIFEST_KEY}"):
            folder = folder[: -len(MANIFEST_KEY)].rstrip("/")
        revision = unquote(found["revision"] or "main")
        kind = found["kind"] or "models"
        return cls(kind, found["repository"], revision, f"{folder}/" if folder else "")

    @property
    def text(self) -> str:
        """The URL."""
        kind = "" if self.kind == "models" else f"{self.kind}/"
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf://{kind}{self.repository}{revision}/{self.folder}".rstrip("/")

    def resolve(self, revision: str | None = None) -> str:
        """The path below which files are read."""
        kind = "" if self.kind == "models" else f"{self.kind}/"
        return f"{kind}{self.repository}/resolve/{quote(revision or self.revision, safe='')}"

    @property
    def api(self) -> str:
        """The path of the interface for this repository."""
        return f"api/{self.kind}/{self.repository}"


class HubStore(DeferredStore):
    """The files of a folder in a repository.

    Args:
        url: ``hf://org/model[@revision][/folder]``.
        options: See `StoreOptions`.

    Raises:
        UsageError: ``url`` is not valid.
    """

    def __init__(self, url: str, options: StoreOptions) -> None:
        self.place = HubPlace.parse(url)
        self.url = self.place.text
        self._root = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
        self._token = find_token()
        self._http = AddressedStore(self.url, self._root, options, self._address)
        if self._token:
            self._http.authorize({"Authorization": f"Bearer {self._token}"})
        self._lock = threading.Lock()
        self._pending: dict[str, CommitOperationAdd] = {}
        self._contents: dict[str, StoredObject] = {}
        self._is_ready = False
        self._closed = False

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        with self._denied():
            return self._http.read(key, limit=limit)

    def read_tagged(self, key: str, *, limit: int) -> tuple[bytes, str]:
        """See `WritableStore.read_tagged`; the tag is the commit of all files together."""
        check_path(key, "key")
        tag = self._head()
        at = AddressedStore(
            self.url, self._root, self._http.options, lambda key: self._address(key, tag)
        )
        with at, self._denied():
            if self._token:
                at.authorize({"Authorization": f"Bearer {self._token}"})
            return at.read(key, limit=limit), tag

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`."""
        with self._denied():
            return self._http.poll(key, limit=limit, mark=mark)

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        check_path(key, "key")
        check_range(start, length)
        return self._stream(key, start, length)

    def _stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        with self._denied():
            yield from self._http.stream(key, start, length)

    def find(self, key: str) -> StoredObject | None:
        """See `WritableStore.find`; the SHA-256 of large files is known."""
        check_path(key, "key")
        with self._lock:
            if key in self._contents:
                return self._contents[key]
        answer = self._call(
            "POST",
            f"{self.place.api}/paths-info/{quote(self.place.revision, safe='')}",
            content=json.dumps({"paths": [self.place.folder + key], "expand": False}).encode(),
            accept=(200, 404),
        )
        found = [] if answer is None else self._entries(answer)
        return next((entry for entry in found if entry.key == key), None)

    def list_objects(self) -> Iterator[StoredObject]:
        """See `WritableStore.list_objects`."""
        revision = quote(self.place.revision, safe="")
        folder = quote(self.place.folder.rstrip("/"))
        path = f"{self.place.api}/tree/{revision}/{folder}".rstrip("/")
        url: str | None = f"{self._root}/{path}?recursive=true&expand=false"
        seen: dict[str, StoredObject] = {}
        while url is not None:
            answer = self._http.call("GET", url, accept=(200, 404), name=self.url)
            if answer.status == 404:
                break
            seen |= {entry.key: entry for entry in self._entries(self._parsed(answer.data))}
            found = _NEXT.search(answer.headers.get("Link", ""))
            url = urljoin(url, found[1]) if found else None
        with self._lock:
            seen |= self._contents
        yield from seen.values()

    def put(self, key: str, content: Content, *, tag: str | None = None) -> None:
        """See `WritableStore.put`; only ``p2u.json`` makes what was put visible to others."""
        check_path(key, "key")
        self._check_open(key)
        if tag == ABSENT and key != MANIFEST_KEY and self.find(key) is not None:
            raise conflict(f"{self.url}/{key}", tag)
        hub = _library(self.url)
        size = size_of(content)
        inline = size <= INLINE and not key.endswith(".bin")
        given = bytes_of(content) if inline or isinstance(content, bytes) else str(content)
        added = hub.CommitOperationAdd(self.place.folder + key, given)
        entry = StoredObject(key, size, sha256_of(content))
        if key == MANIFEST_KEY:
            self._commit([added], tag)
            return
        if not inline:
            with self._hub_errors(key):
                self._ready()
                self._api.preupload_lfs_files(
                    self.place.repository,
                    [added],
                    repo_type=self.place.kind[:-1],
                    revision=self.place.revision,
                )
        with self._lock:
            self._pending[key] = added
            self._contents[key] = entry

    def delete(self, keys: Iterable[str]) -> None:
        """See `WritableStore.delete`: one commit."""
        gone = set(keys)
        for key in gone:
            check_path(key, "key")
        self._check_open("")
        with self._lock:
            for key in gone:
                self._pending.pop(key, None)
                self._contents.pop(key, None)
        there = gone & {entry.key for entry in self.list_objects()} if gone else set()
        if there:
            hub = _library(self.url)
            operations = [hub.CommitOperationDelete(self.place.folder + key) for key in there]
            with self._hub_errors(""):
                self._api.create_commit(
                    self.place.repository,
                    operations,
                    commit_message="Remove files of old versions",
                    repo_type=self.place.kind[:-1],
                    revision=self.place.revision,
                )

    def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._http.close()

    def _commit(self, more: list[CommitOperationAdd], tag: str | None) -> None:
        """Commit all that is pending, if the revision is the one of the tag still."""
        name = f"{self.url}/{MANIFEST_KEY}"
        with self._lock:
            pending = dict(self._pending)
        with self._hub_errors(MANIFEST_KEY, tag):
            self._ready()
        head = self._head() if tag in (None, ABSENT) else tag
        if tag == ABSENT and self.find(MANIFEST_KEY) is not None:
            raise conflict(name, tag)
        with self._hub_errors(MANIFEST_KEY, tag):
            self._api.create_commit(
                self.place.repository,
                [*pending.values(), *more],
                commit_message="Publish a package of P2U",
                repo_type=self.place.kind[:-1],
                revision=self.place.revision,
                parent_commit=None if tag is None else head,
            )
        with self._lock:
            for key in pending:
                self._pending.pop(key, None)
                self._contents.pop(key, None)

    @property
    def _api(self) -> HfApi:
        found: HfApi = _library(self.url).HfApi(
            endpoint=self._root, token=self._token or False, library_name="p2u"
        )
        return found

    def _ready(self) -> None:
        """Make the repository unless it is there; a new one is private."""
        if not self._is_ready:
            self._api.create_repo(
                self.place.repository, repo_type=self.place.kind[:-1], private=True, exist_ok=True
            )
            self._is_ready = True

    def _head(self) -> str:
        """The commit of the revision."""
        revision = quote(self.place.revision, safe="")
        tree = self._call("GET", f"{self.place.api}/revision/{revision}")
        sha = tree.get("sha") if isinstance(tree, dict) else None
        if not isinstance(sha, str):
            raise StoreError("the Hub names no commit", file=self.url, hint="Check HF_ENDPOINT")
        return sha

    def _call(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        accept: tuple[int, ...] = (200,),
    ) -> Any:
        """The JSON of an answer; None for status 404, where that is accepted."""
        self._check_open("")
        headers = {"Content-Type": "application/json"} if content is not None else {}
        with self._denied():
            answer = self._http.call(
                method,
                f"{self._root}/{path}",
                headers=headers,
                content=content,
                accept=accept,
                name=self.url,
            )
        return None if answer.status == 404 else self._parsed(answer.data)

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise StoreError(
                "the Hub's answer is not JSON", file=self.url, hint="Check HF_ENDPOINT"
            ) from None

    def _entries(self, tree: Any) -> Iterator[StoredObject]:
        """The files of a list of the Hub that are below the folder."""
        for item in tree if isinstance(tree, list) else ():
            if not isinstance(item, Mapping) or item.get("type") != "file":
                continue
            path, size = str(item.get("path", "")), item.get("size")
            key = path.removeprefix(self.place.folder)
            if not path.startswith(self.place.folder) or not isinstance(size, int):
                continue
            try:
                check_path(key, "key")
            except FormatError:
                continue
            large = item.get("lfs")
            digest = large.get("oid") if isinstance(large, Mapping) else None
            if isinstance(digest, str):
                yield StoredObject(key, size, digest)
            else:
                oid = item.get("oid")
                yield StoredObject(key, size, None, oid if isinstance(oid, str) else None)

    def _address(self, key: str, revision: str | None = None) -> str:
        return f"{self._root}/{self.place.resolve(revision)}/{quote(self.place.folder + key)}"

    def _check_open(self, key: str) -> None:
        if self._closed:
            raise closed_error(f"{self.url}/{key}".rstrip("/"))

    @contextmanager
    def _denied(self) -> Iterator[None]:
        """Say what the Hub means by 401 and 403: it hides which repositories there are."""
        try:
            yield
        except StoreError as error:
            if error.status == 401 and not self._token:
                error.hint = "There is no such repository, or it needs a token: set HF_TOKEN"
            elif error.status in (401, 403):
                error.hint = "The token (HF_TOKEN) has no access to this repository, or expired"
            raise

    @contextmanager
    def _hub_errors(self, key: str, tag: str | None = None) -> Iterator[None]:
        """Turn the library's errors into ours."""
        name = f"{self.url}/{key}".rstrip("/")
        try:
            yield
        except P2UError:
            raise
        except Exception as error:  # the library's HTTP client differs between its versions
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (409, 412):
                raise conflict(name, tag or "commit") from error
            raise _hub_error(error, status, name) from error


def _hub_error(error: Exception, status: int | None, name: str) -> StoreError:
    cause: BaseException | None = error
    while cause is not None and status is None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        cause = cause.__cause__
    if status in (401, 403):
        hint = "Set HF_TOKEN to a token that may write to this repository"
        what = f"access denied (the Hub answered {status})"
        return StoreError(what, file=name, hint=hint, status=status)
    if status == 404:
        return NotFoundError("the Hub has no such repository or revision", file=name)
    if status is not None:
        retryable = status == 429 or status >= 500
        return StoreError(
            f"the Hub answered {status}",
            file=name,
            hint="Try again later" if retryable else "Check the repository",
            retryable=retryable,
            status=status,
        )
    said = (str(error).splitlines() or [""])[0].split("?")[0][:200]
    return StoreError(
        f"could not be written ({type(error).__name__}: {said})",
        file=name,
        hint="Check the network",
        retryable=not isinstance(error, ValueError | TypeError),
    )


def _library(url: str) -> Any:
    """huggingface_hub.

    Raises:
        UnsupportedError: It is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "writing to the Hub needs the library huggingface_hub",
            file=url,
            hint="Install it: pip install 'p2u-models[hub]'",
        ) from error
    # Bars of our own show the whole upload; these would be one for each object.
    import_module("huggingface_hub.utils").disable_progress_bars()
    return huggingface_hub


def find_token() -> str | None:
    """The Hub's token, from the variables and the file of its command line."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if found := os.environ.get(name, "").strip():
            return found
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    path = os.environ.get("HF_TOKEN_PATH") or Path(os.environ.get("HF_HOME") or cache) / "token"
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError, RuntimeError):
        return None
