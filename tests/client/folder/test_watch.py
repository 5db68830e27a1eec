"""``p2u watch``: a folder that follows a package, and a command after each commit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kit
import later
import pytest
from following import changed
from kit import Made
from waiting import until

import p2u
from p2u.client.folder.watch import Watched, watch
from p2u.errors import UsageError
from p2u.serve import FolderApp, Server, make_server
from p2u.stores.backoff import Backoff


@pytest.fixture
def package(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.package, tmp_path / "pkg"))


@pytest.fixture
def models(made: Made, tmp_path: Path) -> dict[str, Path]:
    return {f"v{n}": changed(made.model, tmp_path / f"model{n}", n) for n in (2, 3)}


@contextmanager
def watching(source, target: Path, **options) -> Iterator[list[Watched]]:
    """Watch in a thread; gives the events so far."""
    events: list[Watched] = []
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            watch(source, target, every=0.02, on_event=events.append, stop=stop, **options)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield events
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def commits(events: list[Watched]) -> list[str | None]:
    return [event.state for event in events if event.kind == "commit"]


@pytest.mark.parametrize("in_place", [False, True])
def test_each_version_comes_to_the_folder(package: Path, models, tmp_path: Path, in_place) -> None:
    target = tmp_path / "got"
    with watching(package, target, in_place=in_place) as events:
        until(lambda: "v1@exact" in commits(events))
        for version in ("v2", "v3"):
            later.add(package, models[version], version)
            until(lambda version=version: f"{version}@exact" in commits(events))
            assert kit.tree(target) == kit.tree(models[version])
    # Nobody waits for the first version's states between.
    assert commits(events) == ["v1@exact", "v2@exact", "v3@exact"]
    assert all(event.bytes > 0 and event.seconds > 0 for event in events)


class Process:
    """The command in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "p2u", "watch", *map(str, arguments), "--every", "50ms"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(p2u.__file__).parent.parent)},
            # Where the tests run in the background, SIGINT is ignored, and children inherit it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def events(self, count: int) -> list[dict[str, object]]:
        assert self.process.stdout is not None
        return [json.loads(self.process.stdout.readline()) for _ in range(count)]

    def end(self, how: int) -> tuple[str, str]:
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=20)
        assert "Traceback" not in err
        return out, err


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_over_http_with_a_hook(package: Path, models, tmp_path: Path) -> None:
    """Events as JSON; the hook finds the folder at the state that it is told; SIGTERM ends it."""
    target, log = tmp_path / "got", tmp_path / "log"
    hook = (
        'sum=$(sha256sum < "$P2U_DIR/tokenizer.json");'
        f'echo "$P2U_STATE $P2U_VERSION $P2U_DIR $sum" >> {log};'
        "echo printed; test $P2U_VERSION != v2"
    )
    with make_server(package, quiet=True) as server:
        child = Process(server.url, target, "--json", "--execute", hook)
        first = child.events(6)
        assert [(e["kind"], e["state"]) for e in first] == [
            (kind, f"v1@{label}") for label in kit.STATES for kind in ("commit", "hook")
        ]
        for version, status in (("v2", 1), ("v3", 0)):
            later.add(package, models[version], version)
            commit, hooked = child.events(2)
            assert (commit["kind"], commit["state"]) == ("commit", f"{version}@exact")
            assert commit["version"] == version and commit["bytes"] > 0
            assert (hooked["kind"], hooked["status"]) == ("hook", status)
        out, err = child.end(signal.SIGTERM)
    assert child.process.returncode == 0 and not out
    assert err.count("printed") == 5
    lines = log.read_text().splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["v2@exact", "v2"], ["v3@exact", "v3"]]
    assert {line.split()[2] for line in lines} == {str(target)}
    digest = kit.hashlib.sha256((models["v3"] / "tokenizer.json").read_bytes()).hexdigest()
    assert lines[-1].split()[3] == digest
    assert kit.tree(target) == kit.tree(models["v3"])


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_it_can_be_ended_at_any_time_and_goes_on(package: Path, models, tmp_path: Path) -> None:
    """Killed, and ended while the hook runs; what the folder holds gets no hook again."""
    target, log = tmp_path / "got", tmp_path / "log"
    child = Process(package, target)
    assert child.process.stdout is not None
    assert "is v1@exact: " in child.process.stdout.readline()
    child.end(signal.SIGKILL)
    later.add(package, models["v2"], "v2")
    child = Process(package, target, "--execute", f"echo $P2U_STATE >> {log}; sleep 1000")
    assert "is v2@exact" in child.process.stdout.readline()
    until(log.exists)
    begin = time.monotonic()
    out, _ = child.end(signal.SIGINT)
    assert time.monotonic() - begin < 4
    assert child.process.returncode == 0 and "stays as it is" in out
    child = Process(package, target, "--execute", f"echo $P2U_STATE >> {log}")
    later.add(package, models["v3"], "v3")
    assert "is v3@exact" in child.process.stdout.readline()
    child.end(signal.SIGTERM)
    assert log.read_text().split() in (["v2@exact", "v3@exact"], ["v2@exact"])
    assert kit.tree(target) == kit.tree(models["v3"])


def test_a_server_that_comes_and_goes(package: Path, models, tmp_path: Path) -> None:
    target = tmp_path / "got"
    server, app = kit.counting_server(package)
    with server:
        url, port = server.url, int(server.url.rpartition(":")[2].strip("/"))
    with watching(url, target) as events:
        until(lambda: events)
        time.sleep(0.2)
        assert [event.kind for event in events] == ["error"]  # said once
        with Server(app, "127.0.0.1", port, quiet=True):
            until(lambda: "v1@exact" in commits(events))
        later.add(package, models["v2"], "v2")
        time.sleep(0.1)
        with Server(app, "127.0.0.1", port, quiet=True):
            until(lambda: "v2@exact" in commits(events))
    assert kit.tree(target) == kit.tree(models["v2"])


def test_a_package_that_is_not_there_yet(package: Path, tmp_path: Path, made: Made) -> None:
    source = tmp_path / "soon"
    with watching(source, tmp_path / "got") as events:
        until(lambda: events)
        shutil.copytree(package, source, ignore=shutil.ignore_patterns("p2u.json"))
        time.sleep(0.1)
        shutil.copy(package / "p2u.json", source / "part")
        (source / "part").rename(source / "p2u.json")
        until(lambda: "v1@exact" in commits(events))
    assert kit.tree(tmp_path / "got") == kit.tree(made.model)


def test_a_broken_version_is_told_and_waited_for(package: Path, models, tmp_path: Path) -> None:
    target = tmp_path / "got"
    with watching(package, target) as events:
        until(lambda: "v1@exact" in commits(events))
        before = kit.tree(target)
        later.add(package, models["v2"], "v2", wrong="file")
        until(lambda: any(event.kind == "error" for event in events))
        assert kit.tree(target) == before
        later.add(package, models["v3"], "v3", parent="v1")
        until(lambda: "v3@exact" in commits(events))
        assert kit.tree(target) == kit.tree(models["v3"])


def test_a_version_without_the_state_wanted_has_a_better_one(
    package: Path, models, tmp_path: Path
) -> None:
    target = tmp_path / "got"
    with watching(package, target, until="8bit") as events:
        until(lambda: "v1@8bit" in commits(events))
        p2u.publish(models["v2"], package)
        until(lambda: "v2@exact" in commits(events))
        p2u.publish(models["v3"], package, anchor=True)
        until(lambda: "v3@8bit" in commits(events))


class BusyApp(FolderApp):
    """The development server's application; asks for a day's patience while ``busy``."""

    busy = False

    def __call__(self, environ, start_response):
        if self.busy and not environ["PATH_INFO"].endswith("p2u.json"):
            start_response("503 Busy", [("Retry-After", "86400"), ("Content-Length", "0")])
            return [b""]
        return super().__call__(environ, start_response)


def test_a_server_cannot_put_it_to_sleep(package: Path, models, tmp_path: Path) -> None:
    """It says at once that the server is busy, looks again by its own clock, and can be ended."""
    app = BusyApp(package)
    with Server(app, "127.0.0.1", 0, quiet=True) as server:
        with watching(server.url, tmp_path / "got") as events:
            until(lambda: "v1@exact" in commits(events))
            app.busy = True
            later.add(package, models["v2"], "v2")
            until(lambda: any("503" in event.message for event in events))
            begin = time.monotonic()
        assert time.monotonic() - begin < 3
        assert "asks to wait 86400 s" in events[-1].message
    assert Backoff(5.0, 60.0, most_asked=60.0).delay(1, 86400.0) == 60


@pytest.mark.parametrize("key", ["p2u.json", "base-000.bin", "layout.json.zst"])
def test_it_ends_while_a_server_is_silent(package: Path, tmp_path: Path, key: str) -> None:
    server, app = kit.counting_server(package)
    app.hold_back(key=key)
    with server:
        with watching(server.url, tmp_path / "got") as events:
            until(app.silent.is_set)
            begin = time.monotonic()
        assert time.monotonic() - begin < 5
        app.reset()
    assert events == []


def test_a_hook_that_cannot_be_started_is_reported(package, models, tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    target = tmp_path / "got"
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with watching(package, target, execute="true", until="base") as events:
        until(lambda: any("could not be started" in event.message for event in events))
        later.add(package, models["v2"], "v2")
        p2u.publish(models["v3"], package, anchor=True)
        until(lambda: any((state or "").startswith("v3") for state in commits(events)))


def test_a_version_that_is_too_large_is_left_out(package: Path, tmp_path: Path) -> None:
    with watching(package, tmp_path / "got", max_bytes=10) as events:
        until(lambda: any("at most 10" in event.message for event in events))
    assert not (tmp_path / "got").exists()


def test_what_no_time_can_mend(package: Path, tmp_path: Path) -> None:
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "mine").write_text("of somebody else")
    with pytest.raises(UsageError, match="holds no state"):
        watch(package, tmp_path / "got")
    with pytest.raises(UsageError, match="every"):
        watch(package, tmp_path / "new", every=0.0)
