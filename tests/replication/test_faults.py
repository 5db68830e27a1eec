"""Stores that fail: what is pulled is exact or refused, what is published is whole or not there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy, Request
from packing_kit import content, model, moved, weights

import p2u
from p2u.errors import IntegrityError, StoreError
from p2u.package.manifest import MAX_MANIFEST
from p2u.package.manifest_parse import parse_manifest
from p2u.stores import WritableStore, open_store, open_writable
from p2u.stores.backoff import Retry

Place = Callable[[str], str]
BUCKETS = ("s3", "az", "gs")
SCHEMES = (*BUCKETS, "oci", "hf")
#: Where a client finds the server of a scheme.
VARIABLES = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST", "hf": "HF_ENDPOINT"}
#: What each answers when a signature or a token has expired.
EXPIRED = {
    "s3": (400, b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>"),
    "az": (403, b"<Error><Code>AuthenticationFailed</Code><Message>expired</Message></Error>"),
    "gs": (401, b"<Error><Code>AuthenticationRequired</Code></Error>"),
}
FAST = Retry(0.001, 0.002, attempts=60)
VERIFY = p2u.verify


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    first = {"w": weights("BF16", 160, 128, seed=1), "v": weights("F32", 40, 50, seed=2)}
    second = {name: moved(tensor, 0.05, 1) for name, tensor in first.items()}
    return [model(root / "1", first), model(root / "2", second)]


@pytest.fixture(scope="session")
def package(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packages") / "p"
    p2u.publish(models[0], path, blob_size=4000)
    return path


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2u.stores.oci.STEPS", Retry(0.001, 0.002, attempts=5))


@pytest.fixture
def faulty(
    place: Place, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[str, FaultyProxy]]]:
    """Gives a place whose server is behind a proxy that spoils answers, when it is told to."""
    proxies: list[FaultyProxy] = []

    def make(scheme: str) -> tuple[str, FaultyProxy]:
        url = place(scheme)
        variable = VARIABLES.get(scheme)
        if scheme == "oci":
            registry = request.getfixturevalue("registry")
            proxy = FaultyProxy(registry.url)
            url = url.replace(registry.host, proxy.url.removeprefix("http://"))
        elif variable is not None:
            proxy = FaultyProxy(os.environ[variable])
            monkeypatch.setenv(variable, proxy.url)
        else:
            variable = "AZURE_STORAGE_CONNECTION_STRING"
            server = request.getfixturevalue("azurite")
            proxy = FaultyProxy(server.url)
            monkeypatch.setenv(variable, os.environ[variable].replace(server.url, proxy.url))
        proxies.append(proxy)
        return url, proxy.__enter__()

    yield make
    for proxy in proxies:
        proxy.__exit__(None, None, None)


def is_blob(request: Request) -> bool:
    return request.method == "GET" and (".bin" in request.path or "/blobs/" in request.path)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_half_of_all_requests_fail(
    scheme: str, faulty, package: Path, models: list[Path], tmp_path: Path
) -> None:
    url, proxy = faulty(scheme)
    rng = random.Random(1)
    # The library of the Hub has back-offs of its own, of seconds.
    writes = scheme != "hf"
    proxy.fault = lambda request: 503 if writes and rng.random() < 0.5 else None
    p2u.push(package, url, retry=FAST)
    proxy.fault = lambda request: 503 if rng.random() < 0.5 else None
    p2u.pull(url, tmp_path / "m", retry=FAST)
    assert content(tmp_path / "m") == content(models[0])
    assert proxy.faults > 5


@pytest.mark.parametrize("scheme", [*BUCKETS, "oci"])
def test_bodies_are_cut(
    scheme: str, faulty, package: Path, models: list[Path], tmp_path: Path
) -> None:
    url, proxy = faulty(scheme)
    p2u.push(package, url)
    rng = random.Random(2)
    proxy.fault = lambda r: "cut" if r.method == "GET" and rng.random() < 0.5 else None
    p2u.pull(url, tmp_path / "m", retry=FAST)
    assert content(tmp_path / "m") == content(models[0])
    assert proxy.faults > 2


@pytest.mark.parametrize("scheme", [*BUCKETS, "oci"])
def test_one_flipped_bit(
    scheme: str, faulty, package: Path, models: list[Path], tmp_path: Path
) -> None:
    url, proxy = faulty(scheme)
    p2u.push(package, url)
    flipped: set[str] = set()

    def once(request: Request) -> str | None:
        if not is_blob(request) or request.path in flipped:
            return None
        flipped.add(request.path)
        return "flip"

    proxy.fault = once
    p2u.pull(url, tmp_path / "m", retry=FAST)
    assert content(tmp_path / "m") == content(models[0])
    assert flipped
    proxy.fault = lambda request: "flip" if is_blob(request) else None
    with pytest.raises(p2u.P2UError):
        p2u.pull(url, tmp_path / "never", retry=FAST)
    assert content(tmp_path / "never") == {} if (tmp_path / "never").exists() else True
    with pytest.raises(p2u.P2UError):
        p2u.mirror(url, tmp_path / "copy", retry=FAST)
    assert not (tmp_path / "copy" / "p2u.json").exists()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_access_ends_in_the_middle(
    scheme: str, faulty, package: Path, models: list[Path], tmp_path: Path
) -> None:
    url, proxy = faulty(scheme)
    p2u.push(package, url)
    seen: list[Request] = []

    def denied(request: Request) -> int | None:
        if request.method != "GET" or "/manifests/" in request.path:
            return None
        seen.append(request)
        return 403 if "exact-" in request.path or len(seen) > 5 else None

    proxy.fault = denied
    with pytest.raises(StoreError, match="denied") as caught:
        p2u.pull(url, tmp_path / "m", retry=FAST)
    assert not caught.value.retryable
    assert caught.value.hint
    proxy.fault = lambda request: None
    p2u.pull(url, tmp_path / "m", retry=FAST)
    assert content(tmp_path / "m") == content(models[0])


@pytest.mark.parametrize("scheme", BUCKETS)
def test_credentials_expire_in_the_middle(
    scheme: str, faulty, package: Path, models: list[Path], tmp_path: Path
) -> None:
    url, proxy = faulty(scheme)
    p2u.push(package, url)
    proxy.fault = lambda r: EXPIRED[scheme] if "exact-" in r.path else None
    with pytest.raises(StoreError, match="access denied") as caught:
        p2u.pull(url, tmp_path / "m", retry=FAST)
    assert not caught.value.retryable
    proxy.fault = lambda request: None
    p2u.pull(url, tmp_path / "m", retry=FAST)
    assert content(tmp_path / "m") == content(models[0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_access_ends_while_publishing(
    scheme: str, faulty, package: Path, models: list[Path]
) -> None:
    url, proxy = faulty(scheme)
    p2u.push(package, url)
    proxy.fault = lambda r: (
        403 if r.method in ("PUT", "POST") and "paths-info" not in r.path else None
    )
    with pytest.raises(StoreError, match="denied"):
        p2u.publish(models[1], url)
    proxy.fault = lambda request: None
    assert versions_at(url) == ["v1"]
    assert p2u.publish(models[1], url).version == "v2"
    VERIFY(url)


@pytest.mark.parametrize("scheme", BUCKETS)
def test_a_stale_manifest(
    scheme: str, place: Place, package: Path, models: list[Path], tmp_path: Path
) -> None:
    """A cache on the way may have it: it is the old version, never a mixture."""
    url = place(scheme)
    p2u.push(package, url)
    with open_writable(url) as store:
        old = store.read("p2u.json", limit=MAX_MANIFEST)
        p2u.publish(models[1], url)
        new = store.read("p2u.json", limit=MAX_MANIFEST)
        store.put("p2u.json", old)
        p2u.pull(url, tmp_path / "m")
        assert content(tmp_path / "m") == content(models[0])
        store.put("p2u.json", new)
        p2u.pull(url, tmp_path / "m")
        assert content(tmp_path / "m") == content(models[1])
        # The other way round: the manifest is there before a blob of it is.
        blob = parse_manifest(new).updates[-1].blobs[0].key
        data = store.read(blob, limit=10**6)
        store.delete([blob])
        p2u.pull(url, tmp_path / "fresh", until="v1")
        with pytest.raises(p2u.P2UError):
            p2u.pull(url, tmp_path / "fresh")
        assert content(tmp_path / "fresh") == content(models[0])
        store.put(blob, data)
        p2u.pull(url, tmp_path / "fresh")
        assert content(tmp_path / "fresh") == content(models[1])


def versions_at(url: str) -> list[str]:
    with open_store(url) as store:
        manifest = parse_manifest(store.read("p2u.json", limit=MAX_MANIFEST))
    return [release.version for release in manifest.releases]


class Killed(BaseException):
    """In place of SIGKILL: from then on nothing reaches the store any more."""


def kill_at(kind: type[WritableStore], at: int, patch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Let the ``at``-th write of a store kill, before or after it is done."""
    count = 0

    def wrap(name: str) -> None:
        real = getattr(kind, name)

        def write(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            if count > at or (count == at and not after):
                raise Killed
            result = real(self, *args, **kwargs)
            if count >= at:
                raise Killed
            return result

        patch.setattr(kind, name, write)

    wrap("put")
    wrap("delete")


def kill_publishers(
    url: str, models: list[Path], package: Path, moments: list[int], monkeypatch
) -> None:
    """Publish and get killed; the package is the old or the new one, and pulls of it are exact."""
    p2u.push(package, url)
    with open_writable(url) as store:
        kind = type(store)
    versions, survived = ["v1"], 0
    for number, at in enumerate(moments):
        source = models[(len(versions)) % 2]
        with monkeypatch.context() as patch:
            kill_at(kind, at, patch, after=number % 2 == 1)
            try:
                p2u.publish(source, url, blob_size=2000)
                survived += 1
            except Killed:
                pass
        found = versions_at(url)
        assert found in (versions, [*versions, f"v{len(versions) + 1}"])
        versions = found
        if number % 10 == 9:
            VERIFY(url)
    p2u.publish(models[len(versions) % 2], url)
    VERIFY(url)
    assert survived < len(moments)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "oci", "hf"])
def test_publishers_are_killed(
    scheme: str, place: Place, models: list[Path], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_publishers(place(scheme), models, package, list(range(1, 21)), monkeypatch)


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_publishers_are_killed(
    scheme: str, place: Place, models: list[Path], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(7)
    moments = [rng.randrange(1, 30) for _ in range(200)]
    kill_publishers(place(scheme), models, package, moments, monkeypatch)


CHILD = "import sys, p2u; p2u.publish(sys.argv[1], sys.argv[2], blob_size=2000)"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("scheme", ["s3", "oci"])
def test_kill_9(scheme: str, faulty, models: list[Path], package: Path, tmp_path: Path) -> None:
    """Real processes: each is killed when it has made some more requests than the one before."""
    url, proxy = faulty(scheme)
    p2u.push(package, url)
    path = os.pathsep.join([str(Path(p2u.__file__).parent.parent)])
    for limit in (2, 9, 16):
        begin = proxy.requests
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(models[1]), url],
            env={**os.environ, "PYTHONPATH": path},
        )
        while process.poll() is None and proxy.requests - begin < limit:
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert versions_at(url) in (["v1"], ["v1", "v2"])
        VERIFY(url)
    p2u.publish(models[1], url, blob_size=2000)
    p2u.pull(url, tmp_path / "m")
    assert content(tmp_path / "m") == content(models[1])


def test_a_damaged_object_is_never_a_parent(
    place: Place, package: Path, models: list[Path]
) -> None:
    """The next version is made from what is decoded, and that is checked."""
    url = place("s3")
    p2u.push(package, url)
    with open_writable(url) as store:
        blob = max(
            (found for found in store.list_objects() if found.key.endswith(".bin")),
            key=lambda found: found.size,
        )
        data = bytearray(store.read(blob.key, limit=10**7))
        data[len(data) // 2] ^= 1
        store.put(blob.key, bytes(data))
    with pytest.raises(IntegrityError):
        p2u.publish(models[1], url)
    assert versions_at(url) == ["v1"]
