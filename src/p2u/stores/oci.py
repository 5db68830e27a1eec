"""OCI registries: ``oci://host/repository:tag``, one layer per object of the package.

The media types are ModelPack's, so that other tools see a model; each layer is the object's own
bytes. A registry's manifest lists the layers: what is put becomes visible when ``p2u.json`` is.

Plain HTTP over urllib3, as the library oras neither reads ranges nor streams.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from p2u.errors import FormatError, NotFoundError, StoreError, UsageError
from p2u.package.paths import MANIFEST_KEY, check_path
from p2u.stores.backoff import Retry
from p2u.stores.base import StoreOptions, check_range, closed_error, too_short
from p2u.stores.http.addressed import AddressedStore, Answer, DeferredStore
from p2u.stores.oci_access import RegistryAccess
from p2u.stores.retrying import with_retries
from p2u.stores.writable import (
    ABSENT,
    Content,
    StoredObject,
    conflict,
    sha256_of,
    size_of,
)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
OTHERS = "application/vnd.cncf.model.weight.config.v1.raw"
#: When to try one request again: an object takes several, and none of the others is to be repeated.
STEPS = Retry(0.2, 2.0, attempts=5)
#: Annotations of a layer that hold its key: ModelPack's, and the one of OCI's own tools.
KEYS = ("org.cncf.model.filepath", "org.opencontainers.image.title")

_URL = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?P<digest>@sha256:[0-9a-f]{64})?/?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
#: One publication at a time in this process, see `OciStore.put`.
_COMMITS = threading.Lock()


@dataclass(frozen=True)
class Layers:
    """The content of a registry's manifest.

    Attributes:
        tag: Its digest; `ABSENT` if there is none.
        layers: By key.
    """

    tag: str = ABSENT
    layers: Mapping[str, StoredObject] = field(default_factory=dict)


class OciStore(DeferredStore):
    """The layers of one tag of a repository.

    A registry has no conditional put. A tag is compared just before its manifest is put and just
    after; only the publishers of one process exclude each other for certain.

    Args:
        url: ``oci://host[:port]/repository[:tag][@sha256:...]``; the tag is ``latest`` by default.
        options: See `StoreOptions`.

    Raises:
        UsageError: ``url`` is not valid.
    """

    def __init__(self, url: str, options: StoreOptions) -> None:
        found = _URL.fullmatch(url.split("://", 1)[-1].removesuffix(f"/{MANIFEST_KEY}"))
        if found is None:
            raise UsageError(
                "not the URL of a repository in a registry",
                file=url.split("?")[0].split("@")[0],
                hint="Write oci://host/repository:tag; logins are read from docker's file",
            )
        host, repository = found["host"], found["repository"]
        self._digest = (found["digest"] or "").removeprefix("@")
        tag = found["tag"] or "latest"
        self.url = f"oci://{host}/{repository}:{tag}{found['digest'] or ''}"
        name = urlsplit(f"//{host}").hostname or ""
        # As docker does: registries on this machine have no certificate.
        plain = name in ("localhost", "::1") or name.startswith("127.")
        server = "registry-1.docker.io" if host == "docker.io" else host
        self._root = f"{'http' if plain else 'https'}://{server}"
        self._base = f"{self._root}/v2/{repository}"
        self._reference = f"{self._base}/manifests/{self._digest or tag}"
        self._access = RegistryAccess(self._root, host, repository)
        self._http = AddressedStore(
            self.url,
            self._root,
            options,
            self._address,
            lambda: self._access.headers(self._http),
            f"Log in: docker login {host}",
        )
        self._lock = threading.RLock()
        self._known: Layers | None = None
        self._pending: dict[str, StoredObject] = {}
        self._closed = False

    def read(self, key: str, *, limit: int) -> bytes:
        """See `Store.read`."""
        self._look(key)
        return self._checked(key, limit)

    def read_tagged(self, key: str, *, limit: int) -> tuple[bytes, str]:
        """See `WritableStore.read_tagged`; the tag is that of all objects together."""
        check_path(key, "key")
        # Whoever asks is going to write; some registries hide new repositories from readers.
        self._ask_to_write()
        tag = self._refresh().tag
        return self._checked(key, limit), tag

    def poll(self, key: str, *, limit: int, mark: str = "") -> tuple[bytes | None, str]:
        """See `Store.poll`: asks the registry's manifest only."""
        check_path(key, "key")
        self._refresh()
        now = self._entry(key).sha256 or ""
        if now == mark:
            return None, mark
        return self._checked(key, limit), now

    def stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        """See `Store.stream`."""
        check_path(key, "key")
        check_range(start, length)
        return self._stream(key, start, length)

    def _stream(self, key: str, start: int, length: int) -> Generator[bytes, None, None]:
        if length == 0:
            return
        found = self._entry(key)
        if found.size < start + length:
            raise too_short(f"{self.url}/{key}", found.size, start, length)
        yield from self._http.stream(key, start, length)

    def find(self, key: str) -> StoredObject | None:
        """See `WritableStore.find`."""
        check_path(key, "key")
        try:
            return self._entry(key)
        except NotFoundError:
            return None

    def list_objects(self) -> Iterator[StoredObject]:
        """See `WritableStore.list_objects`."""
        found = self._refresh()
        yield from {**found.layers, **self._pending}.values()

    def put(self, key: str, content: Content, *, tag: str | None = None) -> None:
        """See `WritableStore.put`; only ``p2u.json`` makes what was put visible to others."""
        check_path(key, "key")
        self._begin_writing(key)
        entry = StoredObject(key, size_of(content), sha256_of(content))
        if tag == ABSENT and key != MANIFEST_KEY and self.find(key) is not None:
            raise conflict(f"{self.url}/{key}", tag)
        self._upload(entry, content)
        with self._lock:
            self._pending[key] = entry
        if key == MANIFEST_KEY:
            try:
                self._commit(tag, frozenset())
            except BaseException:
                with self._lock:
                    self._pending.pop(key, None)
                raise

    def delete(self, keys: Iterable[str]) -> None:
        """See `WritableStore.delete`; the registry's own collection frees the space."""
        gone = frozenset(keys)
        for key in gone:
            check_path(key, "key")
        self._begin_writing("")
        with self._lock:
            for key in gone:
                self._pending.pop(key, None)
        if gone & self._refresh().layers.keys():
            self._commit(None, gone)

    def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._http.close()

    def _begin_writing(self, key: str) -> None:
        if self._closed:
            raise closed_error(f"{self.url}/{key}".rstrip("/"))
        if self._digest:
            raise UsageError(
                "a digest names content that cannot change",
                file=self.url,
                hint="Write to a tag",
            )
        self._ask_to_write()

    def _ask_to_write(self) -> None:
        """Have a token that allows writing from now on: some registries refuse others with 403."""
        if not self._access.writes and not self._digest:
            self._access.writes = True
            with_retries(self._http.renew, STEPS)

    def _look(self, key: str) -> None:
        """Ask the registry again where its manifest may be another one than the one known."""
        check_path(key, "key")
        if key == MANIFEST_KEY:
            self._refresh()

    def _checked(self, key: str, limit: int) -> bytes:
        """A small object, compared with its digest."""
        entry = self._entry(key)
        data = self._http.read(key, limit=limit)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise StoreError(
                "does not have the digest that the registry's manifest states",
                file=f"{self.url}/{key}",
                hint="It was damaged on the way, or in the registry",
                retryable=True,
            )
        return data

    def _call(self, method: str, url: str, **options: Any) -> Answer:
        """One request of several for an object: each has a few tries of its own."""
        return with_retries(lambda: self._http.call(method, url, **options), STEPS)

    def _entry(self, key: str) -> StoredObject:
        """The layer of a key; the manifest is read where it is not known, or has it not."""
        with self._lock:
            known = self._known
            if key in self._pending:
                return self._pending[key]
        fresh = known is None
        found = known or self._refresh()
        if key not in found.layers and not fresh:
            found = self._refresh()
        if key not in found.layers:
            raise NotFoundError(
                "the registry's manifest has no layer of this name",
                file=f"{self.url}/{key}",
                hint="Check the repository and the tag",
            )
        return found.layers[key]

    def _address(self, key: str) -> str:
        return f"{self._base}/blobs/sha256:{self._entry(key).sha256}"

    def _refresh(self) -> Layers:
        """Read the registry's manifest."""
        if self._closed:
            raise closed_error(self.url)
        answer = self._call(
            "GET",
            self._reference,
            headers={"Accept": MANIFEST},
            accept=(200, 404),
            name=self.url,
        )
        found = Layers() if answer.status == 404 else parse_layers(answer.data, self.url)
        with self._lock:
            self._known = found
        return found

    def _upload(self, entry: StoredObject, content: Content) -> None:
        """Put a blob, unless the repository has it."""
        name, digest = f"{self.url}/{entry.key}", f"sha256:{entry.sha256}"
        there = self._call("HEAD", f"{self._base}/blobs/{digest}", accept=(200, 404), name=name)
        if there.status == 200:
            return
        begun = self._call(
            "POST", f"{self._base}/blobs/uploads/", content=b"", accept=(202,), name=name
        )
        place = urljoin(self._base, begun.headers.get("Location", ""))
        self._call(
            "PUT",
            f"{place}{'&' if '?' in place else '?'}digest={digest}",
            headers={"Content-Type": "application/octet-stream"},
            content=content,
            accept=(201, 204),
            name=name,
        )

    def _commit(self, tag: str | None, gone: frozenset[str]) -> None:
        """Put the registry's manifest, with all that is pending and without what is gone.

        Raises:
            ConflictError: The condition does not hold, or another publisher put one meanwhile.
        """
        with _COMMITS, self._lock:
            here = self._refresh()
            name = f"{self.url}/{MANIFEST_KEY}"
            there = MANIFEST_KEY in here.layers
            if tag is not None and (there if tag == ABSENT else here.tag != tag):
                raise conflict(name, tag)
            layers = {**here.layers, **self._pending}
            layers = {key: entry for key, entry in layers.items() if key not in gone}
            config = _config(layers)
            entry = StoredObject("config", len(config), hashlib.sha256(config).hexdigest())
            self._upload(entry, config)
            data = _manifest(entry, layers)
            self._call(
                "PUT", self._reference, headers={"Content-Type": MANIFEST}, content=data, name=name
            )
            if self._refresh().tag != _digest_of(data):
                raise conflict(name, tag or "replaced")
            self._pending.clear()


def _digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_layers(data: bytes, url: str) -> Layers:
    """The layers of a registry's manifest.

    Raises:
        FormatError: It is not one.
    """
    layers: dict[str, StoredObject] = {}
    try:
        tree: Any = json.loads(data)
        for layer in tree["layers"]:
            notes = layer.get("annotations") or {}
            key = next((notes[name] for name in KEYS if name in notes), None)
            digest, size = layer["digest"], layer["size"]
            if not _DIGEST.fullmatch(digest) or not isinstance(size, int) or size < 0:
                raise ValueError(digest)
            with contextlib.suppress(FormatError):
                if isinstance(key, str):
                    check_path(key, "key")
                    layers[key] = StoredObject(key, size, digest.removeprefix("sha256:"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(
            "is not the manifest of an OCI artifact with layers",
            file=url,
            hint="Check the repository and the tag",
        ) from error
    return Layers(_digest_of(data), layers)


def _manifest(config: StoredObject, layers: Mapping[str, StoredObject]) -> bytes:
    tree = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": {
            "mediaType": CONFIG,
            "digest": f"sha256:{config.sha256}",
            "size": config.size,
        },
        "layers": [
            {
                "mediaType": WEIGHTS if key.endswith(".bin") else OTHERS,
                "digest": f"sha256:{entry.sha256}",
                "size": entry.size,
                "annotations": dict.fromkeys(KEYS, key),
            }
            for key, entry in sorted(layers.items())
        ],
    }
    return json.dumps(tree, indent=1, ensure_ascii=False).encode()


def _config(layers: Mapping[str, StoredObject]) -> bytes:
    """ModelPack's description of the model, which names its layers."""
    tree = {
        "descriptor": {},
        "config": {"format": "p2u"},
        "modelfs": {
            "type": "layers",
            "diffIds": [f"sha256:{entry.sha256}" for _, entry in sorted(layers.items())],
        },
    }
    return json.dumps(tree).encode()
