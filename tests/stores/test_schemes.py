"""The table of schemes: what is a URL, and which store opens it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from p2u.stores import SCHEMES, LocalStore, Store, StoreOptions, open_store
from p2u.stores.http.store import HttpStore
from p2u.stores.schemes import scheme_of


@pytest.mark.parametrize(
    ("source", "scheme"),
    [
        ("http://h/p", "http"),
        ("HTTPS://h/p", "https"),
        ("file:///p", "file"),
        ("file:/p", "file"),
        ("smb://server/p", "smb"),  # no store has it, but it is no path
        ("model", None),
        ("./http://odd", None),
        ("C:\\models", None),
        ("C:/models", None),
        ("odd:name", None),
        (Path("http://h"), None),
    ],
)
def test_what_a_url_is(source: str | Path, scheme: str | None) -> None:
    assert scheme_of(source) == scheme


def test_a_path_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd:name").mkdir()
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_store("odd:name"), LocalStore)


def test_the_store_gets_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[StoreOptions] = []

    def opener(url: str, options: StoreOptions) -> Store:
        given.append(options)
        return HttpStore(url.replace("odd+", ""), options)

    monkeypatch.setitem(SCHEMES, "odd+http", f"{__name__}:opener")
    monkeypatch.setattr(sys.modules[__name__], "opener", opener, raising=False)
    store = open_store("odd+http://h/p", connect_timeout=1, headers={"X": "y"})
    assert store.url == "http://h/p"
    assert given == [StoreOptions(1, 30.0, {"X": "y"})]


def test_nothing_of_http_is_imported_for_paths(tmp_path: Path) -> None:
    code = (
        "import sys, p2u.stores\n"
        f"p2u.stores.open_store({str(tmp_path)!r})\n"
        "assert not {'urllib3', 'ssl', 'p2u.stores.http.store'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
