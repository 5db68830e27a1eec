"""Repositories that are no package: their plain files, resumed and verified."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub import TOKEN, Hub

import p2u
from p2u.cli.app import app
from p2u.client.folder import plain_files
from p2u.errors import IntegrityError, LimitError, NotFoundError, StoreError
from p2u.package.manifest import LAYOUT_KEY
from p2u.serve import make_server
from p2u.stores.backoff import Retry

FILES = {
    "model.safetensors": random.Random(1).randbytes(700_000),
    "sub folder/more.safetensors": random.Random(2).randbytes(300_000),
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    ".gitattributes": b"*.bin filter=lfs\n",
}
FAST = Retry(0.001, 0.002, attempts=40)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def repository(hub: Hub) -> str:
    hub.add("org/plain", FILES)
    return "hf://org/plain"


def test_all_files_of_a_repository(repository: str, hub: Hub, tmp_path: Path) -> None:
    seen: list[p2u.client.transfer.control.Progress] = []
    result = p2u.pull(repository, tmp_path / "m", progress=seen.append)
    assert tree(tmp_path / "m") == FILES
    assert result.plain_files == len(FILES)
    assert result.fetched == sum(map(len, FILES.values()))
    assert "p2u publish" in result.warnings[0]
    assert [p.name for p in tmp_path.iterdir() if "p2u" in p.name] == []
    again = p2u.pull(repository, tmp_path / "m")
    assert again.fetched == 0
    assert not hub.leaked


def test_only_what_changed_is_fetched(repository: str, hub: Hub, tmp_path: Path) -> None:
    p2u.pull(repository, tmp_path / "m")
    (tmp_path / "m" / "mine.txt").write_text("mine")
    hub.add("org/plain", {"config.json": b'{"a": 2}'})
    assert p2u.pull(repository, tmp_path / "m").fetched == 8
    assert (tmp_path / "m" / "config.json").read_bytes() == b'{"a": 2}'
    assert (tmp_path / "m" / "mine.txt").read_text() == "mine"


def test_a_damaged_file_is_fetched_again(repository: str, tmp_path: Path) -> None:
    p2u.pull(repository, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(b"x" * len(FILES["model.safetensors"]))
    p2u.pull(repository, tmp_path / "m")
    assert tree(tmp_path / "m") == FILES


def test_it_goes_on_where_it_was(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = plain_files.Stop.check, 0

    def check(self: plain_files.Stop) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(plain_files.Stop, "check", check)
    with pytest.raises((KeyboardInterrupt, StoreError)):
        p2u.pull(repository, tmp_path / "m", jobs=1)
    assert tree(tmp_path / "m") == {}
    left = sum(path.stat().st_size for path in (tmp_path / ".m.p2u" / "cache").iterdir())
    assert left
    result = p2u.pull(repository, tmp_path / "m")
    assert result.fetched == sum(map(len, FILES.values())) - left
    assert tree(tmp_path / "m") == FILES


def test_half_of_all_requests_fail(repository: str, hub: Hub, tmp_path: Path) -> None:
    rng = random.Random(5)
    lock = threading.Lock()

    def fail(method: str, path: str) -> int | None:
        with lock:
            return 503 if "/api/" not in path and rng.random() < 0.5 else None

    hub.fail = fail
    p2u.pull(repository, tmp_path / "m", retry=FAST)
    assert tree(tmp_path / "m") == FILES


def test_access_ends_in_the_middle(repository: str, hub: Hub, tmp_path: Path) -> None:
    hub.fail = lambda method, path: 403 if method == "CDN" else None
    with pytest.raises(StoreError, match="denied"):
        p2u.pull(repository, tmp_path / "m", retry=FAST)
    assert "model.safetensors" not in tree(tmp_path / "m")
    hub.fail = lambda method, path: None
    p2u.pull(repository, tmp_path / "m")
    assert tree(tmp_path / "m") == FILES


def test_one_flipped_bit(repository: str, hub: Hub, tmp_path: Path) -> None:
    digest = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    damaged = bytearray(FILES["model.safetensors"])
    damaged[1000] ^= 1
    hub.large[digest] = bytes(damaged)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        p2u.pull(repository, tmp_path / "m")
    assert tree(tmp_path / "m") == {}
    hub.large[digest] = FILES["model.safetensors"]
    p2u.pull(repository, tmp_path / "m")
    assert tree(tmp_path / "m") == FILES


def test_private_repositories(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/private", FILES)
    hub.private = True
    with pytest.raises(StoreError, match="HF_TOKEN"):
        p2u.pull("hf://org/private", tmp_path / "m")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    p2u.pull("hf://org/private", tmp_path / "m")
    assert tree(tmp_path / "m") == FILES


def test_what_is_asked_needs_a_package(repository: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"p2u\.json"):
        p2u.pull(repository, tmp_path / "m", until="base")
    with pytest.raises(LimitError):
        p2u.pull(repository, tmp_path / "m", max_bytes=1000)
    assert not (tmp_path / "m").exists()


def test_a_place_without_a_model(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/text", {"README.md": b"nothing"})
    hub.add("org/half", {LAYOUT_KEY: b"{}", "base.index": b"x", "base-000.bin": b"y"})
    for name in ("text", "half", "none"):
        with pytest.raises(NotFoundError, match=r"p2u\.json"):
            p2u.pull(f"hf://org/{name}", tmp_path / "m")


def test_a_package_that_is_gone_for_a_moment(hub: Hub, made, tmp_path: Path) -> None:
    p2u.pull(made.package, tmp_path / "m")
    hub.add("org/plain", FILES)
    with pytest.raises(NotFoundError):
        p2u.pull("hf://org/plain", tmp_path / "m")
    assert made.label(tmp_path / "m") == "exact"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def index_server(folder: Path) -> Iterator[str]:
    """Python's own server: an index page, and no ranges."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_folder_with_an_index_page(index_server: str, tmp_path: Path) -> None:
    result = p2u.pull(index_server, tmp_path / "m")
    assert tree(tmp_path / "m") == FILES
    assert result.plain_files == len(FILES)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_lists_nothing(status: int, tmp_path: Path) -> None:
    """The error is about the package, not about a page that nobody has asked for."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            self.send_error(404 if self.path.endswith((".json", "SUMS")) else status)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/models/x"
    with pytest.raises(NotFoundError, match=r"models/x/p2u\.json"):
        p2u.pull(url, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    server.shutdown()
    server.server_close()


def test_a_folder_with_digests(folder: Path, tmp_path: Path) -> None:
    lines = [f"{hashlib.sha256(data).hexdigest()}  ./{name}" for name, data in FILES.items()]
    (folder / "SHA256SUMS").write_text("\n".join([*lines, "0" * 64 + "  ../../outside", "# x"]))
    with make_server(folder, quiet=True) as server:
        p2u.pull(server.url, tmp_path / "m")
        assert tree(tmp_path / "m") == FILES
        assert p2u.pull(server.url, tmp_path / "m").fetched == 0
        (folder / "model.safetensors").write_bytes(b"y" * len(FILES["model.safetensors"]))
        with pytest.raises(IntegrityError):
            p2u.pull(server.url, tmp_path / "other")


def test_a_bucket_of_plain_files(place: Callable[[str], str], folder: Path, tmp_path: Path) -> None:
    url = place("s3")
    with p2u.stores.open_writable(url) as store:
        for name, data in FILES.items():
            store.put(name, data)
    p2u.pull(url, tmp_path / "m")
    assert tree(tmp_path / "m") == FILES


def test_the_command_says_so(repository: str, tmp_path: Path, capsys) -> None:
    app(["pull", repository, str(tmp_path / "m")], standalone_mode=False)
    said = capsys.readouterr()
    assert "5 plain files" in said.out
    assert "p2u publish" in said.out + said.err
