"""Death at any moment: of real processes by SIGKILL, and before any change to the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import p2u
from p2u.client.folder import build_and_swap, in_place, journal, state_file, work_folder
from p2u.disk import files, swap

#: Seconds that an undisturbed pull takes in the tests with real processes.
SECONDS = 1.2


CHILD = (
    "import sys, p2u\n"
    "source, target, rate, in_place, until = sys.argv[1:]\n"
    "print('go', flush=True)\n"
    "p2u.pull(source, target, limit_rate=float(rate), in_place=in_place == 'True', jobs=3, "
    "until=until)"
)


def start(
    url: str, dst: Path, rate: float, in_place: bool, until: str = "exact"
) -> subprocess.Popen[bytes]:
    """A process that pulls; returns when it begins to."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(dst), str(rate), str(in_place), until],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(p2u.__file__).parent.parent)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    return process


class Killed(BaseException):
    """In place of SIGKILL: from then on nothing changes the disk any more."""


class Mortal:
    """Counts changes to the disk; at number ``at`` it dies.

    With ``torn``, a write that it dies in is done by half.
    """

    def __init__(self, at: int, torn: bool) -> None:
        self.at = at
        self.torn = torn
        self.count = 0
        self.dead = False

    def step(self, half: Callable[[], object] = lambda: None) -> None:
        if self.dead:
            raise Killed
        self.count += 1
        if self.count == self.at:
            if self.torn:
                half()
            self.dead = True
            raise Killed

    def wrap(self, function: Callable) -> Callable:
        def change(*args, **kwargs):
            self.step()
            return function(*args, **kwargs)

        return change


@contextlib.contextmanager
def mortal(at: int, *, torn: bool, exchange: bool = True) -> Iterator[Mortal]:
    """Within the block, the client's changes to the disk are counted, and the ``at``-th kills."""
    life = Mortal(at, torn)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "unlink", "mkdir", "rmdir", "chmod"):
            patch.setattr(Path, name, life.wrap(getattr(Path, name)))
        if exchange:
            patch.setattr(swap, "exchange", life.wrap(swap.exchange))
        else:
            patch.setattr(swap, "exchange", lambda *_: False)

        real_write = files.write_at

        def write_at(file, offset, data):
            view = memoryview(data)
            life.step(lambda: real_write(file, offset, view[: len(view) // 2]))
            real_write(file, offset, data)

        for module in (build_and_swap, in_place):
            patch.setattr(module, "write_at", write_at)

        real_tree = files.remove_tree

        def remove_tree(path):
            def half():
                for inner in sorted(path.rglob("*"))[::2]:
                    if inner.is_file():
                        os.unlink(inner)  # noqa: PTH108 - not the counted one

            if path.exists():
                life.step(half)
            real_tree(path) if not path.is_dir() else shutil.rmtree(path)

        for module in (build_and_swap, in_place, work_folder):
            patch.setattr(module, "remove_tree", remove_tree)
        for module in (build_and_swap, work_folder):
            patch.setattr(module, "link_or_copy", life.wrap(files.link_or_copy))

        real_append = journal.Journal._append

        def append(self, kind, number, digest):
            life.step(lambda: self._file.write(b"\1\2\3"))
            real_append(self, kind, number, digest)

        patch.setattr(journal.Journal, "_append", append)
        patch.setattr(state_file, "write_whole", life.wrap(files.write_whole))
        real_open = open

        def redo_open(path, mode="r", **options):
            if "w" in mode:
                life.step(lambda: real_open(path, "wb").write(b"torn").__class__)
            return real_open(path, mode, **options)

        patch.setattr(in_place, "open", redo_open, raising=False)
        patch.setattr(journal, "open", redo_open, raising=False)
        for module in (build_and_swap, in_place):  # what is on the disk is not the point here
            patch.setattr(module, "sync_dir", lambda path: None)
        patch.setattr("p2u.client.folder.target.sync_file", lambda path: None)
        patch.setattr(os, "fsync", lambda fd: None)
        yield life


def lives(run: Callable[[Mortal], object], *, stride: int, **options) -> Iterator[int]:
    """Run again and again, dying one change later each time, until it survives."""
    for at in range(1, 10_000, stride):
        with mortal(at, **options) as life:
            try:
                run(life)
            except Killed:
                pass
            else:
                assert not life.dead
                return
        yield at
    pytest.fail("it never came to an end")
