"""Asking again and again for an object that is replaced now and then."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from nginx import Nginx, find_nginx
from servers import missing

from p2u.serve import make_server
from p2u.stores import open_store
from p2u.stores.http.headers import Mark


@pytest.fixture(params=["folder", "serve", "nginx"])
def place(request: pytest.FixtureRequest, tmp_path: Path):
    """A folder and how a client names it."""
    folder = tmp_path / "package"
    folder.mkdir()
    if request.param == "folder":
        yield folder, str(folder)
    elif request.param == "serve":
        with make_server(folder, quiet=True) as server:
            yield folder, server.url
    else:
        if find_nginx() is None:
            missing("nginx", "Debian: apt-get install nginx-light")
        with Nginx(folder) as server:
            yield folder, server.url


def replace(folder: Path, data: bytes, age: float = 0) -> None:
    part = folder / "part"
    part.write_bytes(data)
    when = time.time() - age
    os.utime(part, (when, when))
    part.replace(folder / "p2u.json")


def test_each_change_is_seen_once(place) -> None:
    """Also changes within one second that leave size and time as they were."""
    folder, source = place
    with open_store(source, stall_timeout=5) as store:
        mark = ""
        for number in range(20):
            data = b"version %02d" % number
            replace(folder, data)
            found, mark = store.poll("p2u.json", limit=100, mark=mark)
            assert found == data
            found, mark = store.poll("p2u.json", limit=100, mark=mark)
            assert found is None


def test_what_has_not_changed_is_not_sent_again(tmp_path: Path) -> None:
    replace(tmp_path, b"x" * 90, age=100)
    with make_server(tmp_path, quiet=True) as server, open_store(server.url) as store:
        _, mark = store.poll("p2u.json", limit=100)
        bodies = []
        real = store._whole

        def whole(body, limit):
            bodies.append(body)
            return real(body, limit)

        store._whole = whole
        for _ in range(3):
            assert store.poll("p2u.json", limit=100, mark=mark)[0] is None
        assert not bodies
        replace(tmp_path, b"y", age=50)
        assert store.poll("p2u.json", limit=100, mark=mark)[0] == b"y"
        assert len(bodies) == 1


def test_when_a_time_is_trusted() -> None:
    date = "Sat, 21 Nov 2026 12:00:10 GMT"
    old, new = "Sat, 21 Nov 2026 12:00:00 GMT", "Sat, 21 Nov 2026 12:00:09 GMT"

    def asked(**headers: str) -> dict[str, str]:
        mark = Mark.of(b"data", {name.replace("_", "-"): v for name, v in headers.items()})
        assert Mark.parse(mark.text()) == mark
        return mark.conditions()

    assert asked(ETag='"1"') == {"If-None-Match": '"1"'}
    assert asked(ETag='W/"1"', Date=date, Last_Modified=old) == {"If-None-Match": 'W/"1"'}
    assert asked(Date=date, Last_Modified=old) == {"If-Modified-Since": old}
    assert asked(ETag='"1"', Date=date, Last_Modified=new) == {}
    assert asked(Last_Modified=old) == {}
    assert asked(Date=date, Last_Modified="yesterday") == {}
    assert asked() == Mark().conditions() == Mark.parse("").conditions() == {}
