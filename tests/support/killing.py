"""Kills pulls at any moment: real processes by SIGKILL, and runs before any change to the disk."""

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
from p2u.client.folder import journal
from p2u.disk import durable, files, swap

CHILD = (
    "import sys, p2u\n"
    "source, target, in_place, until, straight = sys.argv[1:]\n"
    "print('go', flush=True)\n"
    "options = {'in_place': in_place == 'True', 'straight': straight == 'True'}\n"
    "p2u.pull(source, target, jobs=3, until=until, **options)"
)


def start(
    url: str, dst: Path, in_place: bool, until: str = "exact", *, straight: bool = False
) -> subprocess.Popen[bytes]:
    """A process that pulls; returns when it begins to."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(dst), str(in_place), until, str(straight)],
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
    """Within the block, changes to the disk are counted, and the ``at``-th kills.

    Callers take these functions from their module at each call, so one place is enough.
    """
    life = Mortal(at, torn)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "unlink", "mkdir", "rmdir", "chmod"):
            patch.setattr(Path, name, life.wrap(getattr(Path, name)))
        patch.setattr(os, "ftruncate", life.wrap(os.ftruncate))
        patch.setattr(shutil, "copyfile", life.wrap(shutil.copyfile))
        patch.setattr(files, "link_or_copy", life.wrap(files.link_or_copy))
        patch.setattr(swap, "exchange", life.wrap(swap.exchange) if exchange else lambda *_: False)
        _tear(patch, life)
        patch.setattr(os, "fsync", lambda fd: None)  # what is on the disk is not the point here
        yield life


def _tear(patch: pytest.MonkeyPatch, life: Mortal) -> None:
    """Count the changes that can be done by half."""
    real_write, real_tree = files.write_at, files.remove_tree
    real_file, real_part = durable.write_file, durable.FileReplacement.write
    real_append, real_open = journal.Journal._append, open

    def write_at(file, offset, data):
        view = memoryview(data)
        life.step(lambda: real_write(file, offset, view[: len(view) // 2]))
        real_write(file, offset, data)

    def remove_tree(path):
        def half():
            for inner in sorted(path.rglob("*"))[::2]:
                if inner.is_file():
                    os.unlink(inner)  # noqa: PTH108 - not the counted one

        if path.exists():
            life.step(half)
        real_tree(path) if not path.is_dir() else shutil.rmtree(path)

    def write_file(path, *parts, new=False):
        life.step(lambda: real_file(path, b"torn", new=new))
        real_file(path, *parts, new=new)

    def write_part(self, data):
        life.step(lambda: real_part(self, data[: len(data) // 2]))
        real_part(self, data)

    def append(self, kind, number, digest):
        life.step(lambda: self._file.write(b"\1\2\3"))
        real_append(self, kind, number, digest)

    def journal_open(path, mode="r", **options):
        if "w" in mode:
            life.step(lambda: real_file(path, b"torn"))
        return real_open(path, mode, **options)

    patch.setattr(files, "write_at", write_at)
    patch.setattr(files, "remove_tree", remove_tree)
    patch.setattr(durable, "write_file", write_file)
    patch.setattr(durable.FileReplacement, "write", write_part)
    patch.setattr(journal.Journal, "_append", append)
    patch.setattr(journal, "open", journal_open, raising=False)


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
