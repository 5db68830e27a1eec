"""Buckets of each kind, on a real server, against the one contract."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from forking import in_child, raised
from servers import BUCKET
from writing_contract import Reopen, WritingContract, fill

from p2u.errors import ConflictError, StoreError, UnsupportedError, UsageError
from p2u.stores import ABSENT, Store, cloud, cloud_settings, open_store, open_writable

Place = Callable[[str], str]


class TestS3(WritingContract):
    SCHEME = "s3"

    @pytest.fixture
    def reopen(self, place: Place) -> Reopen:
        url = place(self.SCHEME)
        return lambda: open_writable(url, stall_timeout=10)

    @pytest.fixture
    def store(self, place: Place) -> Iterator[Store]:
        place(self.SCHEME)
        url = f"{self.SCHEME}://{BUCKET}/contract-{os.getpid()}"
        with open_writable(url) as store:
            if store.find("p2u.json") is None:
                fill(store)
        with open_store(f"{url}/p2u.json", stall_timeout=10) as opened:
            yield opened

    def test_large_objects_are_put_in_parts(
        self, empty: cloud.CloudStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cloud, "WHOLE", 1 << 20)
        monkeypatch.setattr(cloud, "_PART", 5 << 20)
        path = tmp_path / "large"
        path.write_bytes(os.urandom(6 << 20))
        empty.put("large.bin", path, tag=ABSENT)
        found = empty.find("large.bin")
        assert found is not None
        assert found.size == 6 << 20
        with pytest.raises(ConflictError):
            empty.put("large.bin", path, tag=ABSENT)
        assert empty.read("large.bin", limit=7 << 20) == path.read_bytes()

    def test_no_such_bucket(self, place: Place) -> None:
        place(self.SCHEME)
        url = f"{self.SCHEME}://no-such-bucket-here/p"
        with open_store(url) as store, pytest.raises(StoreError) as caught:
            store.read("p2u.json", limit=10)
        assert not caught.value.retryable


class TestAzure(TestS3):
    SCHEME = "az"


class TestGoogle(TestS3):
    SCHEME = "gs"


@pytest.mark.skipif(sys.platform != "linux", reason="forks with threads")
def test_a_forked_child_is_told_that_it_cannot_use_buckets(place: Place) -> None:
    """The library's threads are in the parent: a request would never end."""
    with open_writable(place("s3")) as store:
        store.put("a.txt", b"a")

        def child() -> str:
            return " ".join(
                raised(action)
                for action in (
                    lambda: store.read("a.txt", limit=10),
                    lambda: store.put("a.txt", b"b"),
                    lambda: list(store.list_objects()),
                    lambda: b"".join(store.stream("a.txt", 0, 1)),
                )
            )

        assert in_child(child).count("UsageError") == 4
        assert store.read("a.txt", limit=10) == b"a"


def test_wrong_credentials(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    url = place("s3")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with open_store(url) as store, pytest.raises(StoreError, match="denied") as caught:
        store.read("p2u.json", limit=10)
    assert not caught.value.retryable
    assert "docs/stores.md" in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_the_files_of_the_aws_command_line(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = place("s3")
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        f"[default]\nregion = x\n[profile tests]\nregion = eu-west-1\nendpoint_url = {endpoint}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[tests]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "tests")
    assert cloud_settings.of("s3")["region"] == "eu-west-1"
    with open_writable(url) as store:
        store.put("p2u.json", b"{}", tag=ABSENT)
    with open_store(url) as store:
        assert store.read("p2u.json", limit=10) == b"{}"


def test_a_profile_without_keys(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its credentials come from elsewhere, which boto3 knows; here something stands for it."""
    url = place("s3")
    keys = {
        "access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
        "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "expires_at": None,
    }
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text("[default]\ncredential_process = /bin/keys\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    with pytest.raises(UnsupportedError, match="pip install boto3"):
        open_store(url)
    library = ModuleType("obstore.auth.boto3")
    library.Boto3CredentialProvider = lambda: lambda: keys  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", library)
    with open_writable(url) as store:
        store.put("p2u.json", b"{}", tag=ABSENT)
        assert store.read("p2u.json", limit=10) == b"{}"
    library.Boto3CredentialProvider = lambda: 1 / 0  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="aws sso login"):
        open_store(url)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, no_credentials: None) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with open_store("s3://bucket/p", stall_timeout=2) as store, pytest.raises(StoreError) as caught:
        store.read("p2u.json", limit=10)
    assert caught.value.retryable


@pytest.mark.parametrize("url", ["s3://", "s3:///folder", "s3://bucket/p?x=1", "gs://u:p@bucket"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'p2u-models\[cloud\]'"):
        open_store("s3://bucket/p")
