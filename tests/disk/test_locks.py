"""File locks: with the system's own ones, and where the file system has none."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2u.disk import mounts
from p2u.disk.locks import LONGEST, FileLock, try_lock
from p2u.errors import BusyError, DiskError

fcntl = pytest.importorskip("fcntl", reason="these patch the system call of POSIX")

LACKING = ["ENOSYS", "ENOLCK", "ENOTSUP", "EOPNOTSUPP", "EINVAL"]
HERE = socket.gethostname()


def lock(folder: Path, **options: Any) -> FileLock:
    return FileLock(folder / "lock", "{owner} works here", "Wait", file=folder, **options)


def owner(pid: int, host: str = HERE, age: float = 125) -> str:
    return json.dumps({"pid": pid, "host": host, "time": time.time() - age})


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture(params=[None, *LACKING])
def any_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """A system with locks, and systems without."""
    if request.param:
        lack(monkeypatch, request.param)
    return request.param


def lack(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(getattr(errno, name), name)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_what_the_system_says(tmp_path: Path, any_system: str | None) -> None:
    with open(tmp_path / "file", "wb") as one, open(tmp_path / "file", "wb") as two:
        if any_system:
            assert try_lock(one.fileno()) is None
        else:
            assert try_lock(one.fileno()) is True
            assert try_lock(two.fileno()) is False


@pytest.mark.usefixtures("any_system")
def test_one_at_a_time(tmp_path: Path) -> None:
    one, two = lock(tmp_path), lock(tmp_path)
    with one:
        assert one.held
        text = json.loads((tmp_path / "lock").read_text())
        assert (text["pid"], text["host"]) == (os.getpid(), HERE)
        with pytest.raises(BusyError, match=f"process {os.getpid()} on {HERE}") as caught:
            two.acquire()
        assert caught.value.file == str(tmp_path)
        assert not two.held
    assert not one.held
    assert list(tmp_path.iterdir()) == []
    with two:
        pass
    one.release()  # which does nothing


def test_threads_exclude_each_other(tmp_path: Path, any_system: str | None) -> None:
    inside, most, taken = 0, 0, 0
    count = threading.Lock()

    def work() -> None:
        nonlocal inside, most, taken
        while True:
            try:
                with lock(tmp_path, make_folder=True):
                    with count:
                        inside += 1
                        most, taken = max(most, inside), taken + 1
                    time.sleep(0.001)
                    with count:
                        inside -= 1
                    return
            except BusyError:
                time.sleep(0.0005)

    threads = [threading.Thread(target=work) for _ in range(6)]
    first = lock(tmp_path)
    first.acquire()
    for thread in threads:
        thread.start()
    time.sleep(0.01)
    assert taken == 0
    first.release(remove=False)
    for thread in threads:
        thread.join(60)
    assert taken == 6
    if any_system is None:  # by its text alone, a lock has gaps of microseconds
        assert most == 1


@pytest.mark.usefixtures("any_system")
def test_the_lock_of_a_dead_process_is_void(tmp_path: Path) -> None:
    for text in (
        owner(dead_pid()),
        owner(1 << 40),
        owner(0),
        "",
        "99999999",
        "[" * 4000,
        '{"pid": 1}',
    ):
        (tmp_path / "lock").write_text(text)
        with lock(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("any_system")
def test_a_dead_process_that_had_our_number(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(owner(os.getpid()))
    with lock(tmp_path):
        pass


@pytest.mark.usefixtures("any_system")
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_a_time_that_is_none(tmp_path: Path, value: str) -> None:
    (tmp_path / "lock").write_text(f'{{"pid": 1, "host": "far", "time": {value}}}')
    with lock(tmp_path):
        pass


def test_another_machine_counts_where_there_are_no_locks(
    tmp_path: Path, any_system: str | None
) -> None:
    (tmp_path / "lock").write_text(owner(7, "far"))
    if any_system is None:  # the system has granted the lock: nobody else has it
        with lock(tmp_path):
            pass
        return
    with pytest.raises(BusyError, match="process 7 on far, for 2 min, works here") as caught:
        lock(tmp_path).acquire()
    # Nobody but the user can find out whether it lives.
    assert f"remove the file {tmp_path / 'lock'}" in str(caught.value.hint)


@pytest.mark.usefixtures("any_system")
def test_nobody_holds_a_lock_for_days(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(owner(7, "far", age=LONGEST + 60))
    with lock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("kind", "options", "shared"),
    [
        ("ext4", "rw,relatime", True),
        ("nfs4", "rw,vers=4.2,local_lock=none", True),
        ("nfs", "rw,nolock,vers=3", False),
        ("nfs4", "rw,local_lock=all", False),
        ("lustre", "rw,localflock", False),
        ("fuse.sshfs", "rw,user_id=0", False),
        ("fuse.fuse-overlayfs", "rw", True),
    ],
)
def test_locks_that_stay_on_their_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, shared: bool
) -> None:
    """There, a free lock says nothing of the processes of other machines."""
    device = tmp_path.stat().st_dev
    at = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mountinfo"
    table.write_text(
        "21 1 999:999 / / rw - nfs nowhere rw,nolock\n"
        f"36 21 {at} / /models rw,noatime shared:1 - {kind} host:/models {options}\n"
    )
    monkeypatch.setattr(mounts, "_MOUNTS", str(table))
    (tmp_path / "lock").write_text(owner(7, "far"))
    if shared:
        with lock(tmp_path):
            pass
    else:
        with pytest.raises(BusyError, match="on far"):
            lock(tmp_path).acquire()


def test_a_lock_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "lock").symlink_to(precious)
    with pytest.raises(DiskError):
        lock(tmp_path).acquire()
    assert precious.read_text() == "precious"


def test_a_live_process_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "ENOLCK")
    (tmp_path / "lock").write_text(owner(os.getppid()))
    with pytest.raises(BusyError, match="remove the file"):
        lock(tmp_path).acquire()


def test_another_process(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from p2u.disk.locks import FileLock\n"
        "FileLock(pathlib.Path(sys.argv[1]), 'm', 'h').acquire()\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(BusyError, match=f"process {process.pid} ") as caught:
        lock(tmp_path).acquire()
    assert caught.value.hint == "Wait"  # the system is sure that it lives
    process.kill()
    process.communicate()
    with lock(tmp_path):
        pass


def test_the_system_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "EIO")
    with pytest.raises(DiskError):
        lock(tmp_path).acquire()


def once(monkeypatch: pytest.MonkeyPatch, where: object, name: str, first: Callable) -> None:
    """Let something happen before the first call of a function."""
    real = getattr(where, name)

    def call(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(where, name, real)
        first()
        return real(*args, **options)

    monkeypatch.setattr(where, name, call)


def test_removed_between_open_and_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once(monkeypatch, fcntl, "flock", (tmp_path / "lock").unlink)
    with lock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
        with pytest.raises(BusyError):
            lock(tmp_path).acquire()


def test_replaced_between_open_and_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = lock(tmp_path)

    def overtake() -> None:
        (tmp_path / "lock").unlink()
        other.acquire()

    once(monkeypatch, fcntl, "flock", overtake)
    with pytest.raises(BusyError):
        lock(tmp_path).acquire()
    other.release()


def test_the_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "a" / "work"
    with pytest.raises(DiskError, match="No such file"):
        lock(work).acquire()
    once(monkeypatch, os, "open", lambda: work.rmdir())
    with lock(work, make_folder=True):
        assert (work / "lock").exists()


def test_kept_but_let_go(tmp_path: Path) -> None:
    held = lock(tmp_path)
    held.acquire()
    held.release(remove=False)
    assert (tmp_path / "lock").read_bytes() == b""


def test_the_lock_of_another_folder_stays(tmp_path: Path) -> None:
    """The folder gave way to another one of the same name, which somebody has locked."""
    folder = tmp_path / "folder"
    mine, theirs = lock(folder, make_folder=True), lock(folder, make_folder=True)
    mine.acquire()
    folder.rename(tmp_path / "former")
    theirs.acquire()
    mine.release()
    assert (folder / "lock").exists()
    with pytest.raises(BusyError):
        mine.acquire()
    theirs.release()
