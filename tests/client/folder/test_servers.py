"""Servers of one package that differ from each other, and those that do not answer at first."""

from __future__ import annotations

import itertools
import logging
import socket

import pytest
from kit import QUICK, tree
from store_kit import FlakyStore

from p2u.cli.bars import retries_reported
from p2u.client.folder.pull import pull
from p2u.errors import FormatError, StoreError
from p2u.serve import FolderApp, Server
from p2u.stores import LocalStore


class ManyServers(FolderApp):
    """Nodes behind one name: each has ETags and times of its own."""

    def __init__(self, root):
        super().__init__(root)
        self.turn = itertools.count()
        self.asked = []

    def __call__(self, environ, start_response):
        self.asked.append(environ.get("HTTP_IF_RANGE"))

        def start(status, headers, *rest):
            node = next(self.turn) % 3
            kept = [(k, v) for k, v in headers if k.lower() not in ("etag", "last-modified")]
            etag = [("ETag", f'"{node}"')] if node else [("ETag", 'W/"0"')]
            return start_response(status, kept + etag, *rest)

        return super().__call__(environ, start)


@pytest.mark.parametrize("straight", [False, True])
def test_nodes_with_etags_of_their_own(made, tmp_path, straight):
    app = ManyServers(made.package)
    with Server(app, "127.0.0.1", 0, quiet=True) as server:
        result = pull(server.url, tmp_path / "dst", straight=straight)
    assert tree(tmp_path / "dst") == tree(made.model)
    assert result.warnings == ()
    assert set(app.asked) == {None}


def test_the_first_failure_is_reported_at_once(made, tmp_path, caplog):
    store = FlakyStore(LocalStore(made.package), lambda key, start, n: n < 3)
    with caplog.at_level(logging.WARNING, "p2u.retry"):
        pull(store, tmp_path / "dst", retry=QUICK)
    (first, *more) = [r.getMessage() for r in caplog.records if r.name == "p2u.retry"]
    assert "on purpose" in first and "trying again in" in first and "1 of 3" in first
    assert more == []  # not each of them


def test_the_commands_print_it(tmp_path, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/pkg"
    with retries_reported(), pytest.raises(StoreError, match="refused"):
        pull(url, tmp_path / "dst", retry=QUICK)
    err = capsys.readouterr().err
    assert f"{url}/p2u.json" in err and "trying again" in err


def test_text_that_is_no_manifest_is_named_by_its_url(made, package, tmp_path):
    (package / "p2u.json").write_text('{"error": "session expired"}')
    server = Server(FolderApp(package), "127.0.0.1", 0, quiet=True)
    expected = rf"{server.url}/p2u\.json: not a P2U manifest"
    with server, pytest.raises(FormatError, match=expected):
        pull(server.url, tmp_path / "dst")
