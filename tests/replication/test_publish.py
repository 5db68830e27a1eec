"""Publish to stores of each kind: versions, conflicts, old versions, objects that nobody needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packing_kit import Tensors, content, model, moved, weights
from places import WRITABLE

import p2u
from p2u.errors import ConflictError, UnsupportedError
from p2u.package.keys import keys
from p2u.package.manifest import MAX_MANIFEST, Manifest
from p2u.package.manifest_parse import parse_manifest
from p2u.replication import unused
from p2u.replication.publication import Publication
from p2u.replication.unused import UNUSED
from p2u.stores import open_store, open_writable

Place = Callable[[str], str]
#: Those whose publishers have no lock.
REMOTE = tuple(scheme for scheme in WRITABLE if scheme != "file")


def tensors_of(number: int) -> Tensors:
    found: Tensors = {"w": weights("BF16", 64, 128, seed=1), "v": weights("F32", 40, 50, seed=2)}
    for step in range(number):
        found = {name: moved(tensor, 0.05, step) for name, tensor in found.items()}
    return found


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The model at five times."""
    root = tmp_path_factory.mktemp("models")
    return [model(root / f"m{n}", tensors_of(n), config=f"{n}") for n in range(5)]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, in which nothing may stay."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert list(folder.glob(".p2u-*")) == []


def manifest_at(url: str) -> Manifest:
    with open_store(url) as store:
        return parse_manifest(store.read("p2u.json", limit=MAX_MANIFEST))


def there(url: str) -> set[str]:
    with open_writable(url) as store:
        return {found.key for found in store.list_objects()}


@pytest.mark.parametrize("scheme", WRITABLE)
def test_versions_one_after_the_other(
    scheme: str, place: Place, models: list[Path], tmp_path: Path, work: Path
) -> None:
    url = place(scheme)
    folder = url
    if scheme == "file":
        folder = str(tmp_path / "package")
        url = Path(folder).as_uri()
    for number, source in enumerate(models[:3]):
        parent = models[number - 1] if number == 1 else None  # v3's has to be decoded
        report = p2u.publish(source, folder, parent=parent, jobs=2, anchor=number == 2 or None)
        assert report.version == f"v{number + 1}"
    p2u.pull(url, tmp_path / "pulled", until="v2")
    assert content(tmp_path / "pulled") == content(models[1])
    p2u.pull(url, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(models[2])
    p2u.verify(url)
    assert there(url) - {UNUSED} == keys(manifest_at(url))
    assert p2u.publish(models[2], folder).version == "v3"  # it is there already
    report = p2u.gc(folder, keep=1, anchors=0)
    assert report.dropped == ("v1", "v2")
    assert there(url) - {UNUSED} == keys(manifest_at(url))
    p2u.pull(url, tmp_path / "again")
    assert content(tmp_path / "again") == content(models[2])


@pytest.mark.parametrize("scheme", REMOTE)
def test_what_is_expected(scheme: str, place: Place, models: list[Path], work: Path) -> None:
    url = place(scheme)
    with pytest.raises(ConflictError, match="no package"):
        p2u.publish(models[0], url, expect="v1@exact")
    p2u.publish(models[0], url)
    with pytest.raises(ConflictError, match="v1@exact"):
        p2u.publish(models[1], url, expect="v7@exact")
    p2u.publish(models[1], url, expect="v1@exact")
    assert [r.version for r in manifest_at(url).releases] == ["v1", "v2"]


@pytest.mark.parametrize("scheme", REMOTE)
@pytest.mark.parametrize("first", [True, False])
def test_two_publishers_at_once(
    scheme: str,
    first: bool,
    place: Place,
    models: list[Path],
    tmp_path: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both have seen the same package, and both are done: one learns that it was too late."""
    url = place(scheme)
    if not first:
        p2u.publish(models[0], url)
    both = threading.Barrier(2, timeout=60)
    real = Publication._put

    def put(self: Publication, data: bytes) -> None:
        both.wait()
        real(self, data)

    results: dict[int, object] = {}

    def publish(number: int) -> None:
        try:
            results[number] = p2u.publish(models[number], url)
        except BaseException as error:
            results[number] = error

    with monkeypatch.context() as patch:
        patch.setattr(Publication, "_put", put)
        threads = [threading.Thread(target=publish, args=(number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    lost = [number for number, result in results.items() if isinstance(result, ConflictError)]
    assert len(lost) == 1, results
    won = models[3 - lost[0]]
    p2u.pull(url, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(won)
    p2u.verify(url)
    p2u.publish(models[lost[0]], url)
    p2u.pull(url, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(models[lost[0]])


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_what_a_killed_publisher_left_is_deleted(
    scheme: str, place: Place, models: list[Path], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = place(scheme)
    p2u.publish(models[0], url)
    with monkeypatch.context() as patch:
        patch.setattr(Publication, "_put", lambda self, data: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            p2u.publish(models[1], url)
    left = there(url) - keys(manifest_at(url))
    assert UNUSED in left
    assert len(left) > 1
    p2u.gc(url)
    assert there(url) - keys(manifest_at(url)) == left  # it may be at work still
    monkeypatch.setattr(unused.time, "time", lambda: 1e10)
    with open_writable(url) as store:
        store.put("mine.txt", b"of a stranger")
    p2u.gc(url)
    assert there(url) - keys(manifest_at(url)) == {"mine.txt", UNUSED}


@pytest.mark.parametrize("scheme", ["s3", "oci", "hf"])
def test_what_is_there_is_not_uploaded_again(
    scheme: str, place: Place, models: list[Path], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = place(scheme)
    p2u.publish(models[0], url, blob_size=1000)
    with open_writable(url) as store:
        kind = type(store)
    put: list[str] = []
    real, limit = kind.put, 3

    def counted(self, key, content, *, tag=None):  # type: ignore[no-untyped-def]
        if key != UNUSED:
            put.append(key)
            if len(put) == limit:
                raise SystemExit
        real(self, key, content, tag=tag)

    monkeypatch.setattr(kind, "put", counted)
    with pytest.raises(SystemExit):
        p2u.publish(models[1], url, blob_size=1000)
    before, limit = set(put), 10**9
    put.clear()
    p2u.publish(models[1], url, blob_size=1000)
    if scheme == "s3":  # the others forget what was never published, but not its content
        assert len(before & set(put)) <= 5  # those that were under way
    p2u.verify(url)


@pytest.mark.parametrize("scheme", ["s3", "oci"])
def test_grace(scheme: str, place: Place, models: list[Path], work: Path) -> None:
    url = place(scheme)
    for source in models[:3]:
        p2u.publish(source, url, anchor=True)
    before = there(url)
    p2u.gc(url, keep=1, anchors=0, grace=1000)
    assert before <= there(url)
    assert [r.version for r in manifest_at(url).releases] == ["v3"]
    p2u.publish(models[3], url)
    assert before <= there(url)


def test_a_package_at_an_http_url_cannot_be_written(models: list[Path]) -> None:
    with pytest.raises(UnsupportedError, match="only be read"):
        p2u.publish(models[0], "http://127.0.0.1:9/p")
    with pytest.raises(UnsupportedError, match="only be read"):
        p2u.gc("http://127.0.0.1:9/p")


def test_a_package_is_packed_to_a_folder_only(models: list[Path]) -> None:
    with pytest.raises(p2u.UsageError, match="p2u publish"):
        p2u.pack(models[0], "s3://bucket/p")


@pytest.mark.parametrize("first", [True, False])
def test_progress_of_the_upload(first: bool, place: Place, models: list[Path], work: Path) -> None:
    url = place("s3")
    if not first:
        p2u.publish(models[0], url)
    seen: list[p2u.packing.report.PackProgress] = []
    p2u.publish(models[1], url, blob_size=2000, progress=seen.append)
    uploads = [p for p in seen if p.phase == "upload"]
    assert len(uploads) >= 2
    assert uploads[-1].done == uploads[-1].total
    assert [p.done for p in uploads] == sorted(p.done for p in uploads)


def test_an_upload_that_is_cancelled(place: Place, models: list[Path], work: Path) -> None:
    url = place("s3")
    p2u.publish(models[0], url)

    def cancel(progress: p2u.packing.report.PackProgress) -> None:
        if progress.phase == "upload":
            raise p2u.Cancelled("enough")

    with pytest.raises(p2u.Cancelled):
        p2u.publish(models[1], url, blob_size=2000, progress=cancel)
    assert [r.version for r in manifest_at(url).releases] == ["v1"]
    p2u.verify(url)
    assert p2u.publish(models[1], url, blob_size=2000).version == "v2"
    p2u.verify(url)
