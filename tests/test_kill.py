"""Killed at any moment, a pull loses nothing: the next run goes on where it was.

Two ways: real processes get SIGKILL at random moments, and a simulation dies before and in the
middle of every single change to the disk, one after the other.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kit
import pytest
from kit import Made, tree

import p2u
from p2u.client.folder import build_and_swap, in_place, journal, state_file, work_folder
from p2u.client.folder.journal import read_journal
from p2u.client.folder.pull import pull
from p2u.client.folder.work_folder import WorkFolder
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


def missing_bytes(made: Made, dst: Path) -> tuple[int, int]:
    """Bytes of chunks that the next run has to fetch, and bytes of objects that it may fetch."""
    manifest = made.manifest
    work = WorkFolder(dst.resolve())
    found = read_journal(work.journal)
    here = made.label(dst)
    at = kit.STATES.index(here) + 1 if here else 0
    left = manifest.updates[at:]
    if found is not None and not here and dst.exists():
        # Being refined in place: the update is the one that the journal is about.
        labels = [s.digest for s in manifest.states]
        at = next(
            n for n, d in enumerate(labels) if work_folder.target_prefix(d) == found.header.target
        )
        left = manifest.updates[at:]
    count = sum(update.bytes for update in left)
    objects = manifest.latest.layout.size + sum(update.index.size for update in left)
    if found is not None and left:
        target = next(s.digest for s in manifest.states if s.id == left[0].target)
        if work_folder.target_prefix(target) == found.header.target:
            from p2u.client.transfer.package_reader import PackageReader

            with PackageReader(made.package) as package:
                chunks = package.index(left[0]).chunks
            redo = {int(path.name) for path in work.redo.glob("*")}
            whole = set(found.done) | {n for n in redo if n in found.done}
            count -= sum(chunks[n].length for n in whole)
    return count, objects


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("in_place", [False, True])
def test_kill_9_at_ten_random_moments(made, tmp_path, monkeypatch, in_place):
    monkeypatch.setattr("p2u.client.transfer.requests.MAX_GAP", 0)
    rng = random.Random(20 + in_place)
    total = made.manifest.states[-1].bytes
    seen = set()
    server, app = kit.counting_server(made.package)
    with server:
        for number in range(10):
            dst = tmp_path / f"dst{number}"
            app.reset()
            process = start(server.url, dst, total / SECONDS, in_place)
            # One moment in each tenth of the way; by bytes, as a busy machine is late by the clock.
            while app.sent < total * (number + rng.random()) / 10 and process.poll() is None:
                time.sleep(0.002)
            process.kill()
            process.wait()
            state = made.label(dst)
            seen.add((state, dst.exists()))
            if not in_place:
                assert state is not None or not dst.exists()
            missing, objects = missing_bytes(made, dst)
            app.reset()
            result = pull(server.url, dst, in_place=in_place)
            assert tree(dst) == tree(made.model)
            assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".p2u")] == []
            manifest = (made.package / "p2u.json").stat().st_size
            # A chunk that was done in place but not yet noted is done again from its redo file.
            assert missing <= total
            assert result.fetched <= manifest + objects + missing
            if not in_place:
                assert result.fetched >= manifest + missing
            # What was on its way to the process that was killed may be counted, too.
            assert app.sent >= result.fetched
    assert len(seen) >= 3, "the moments were not spread over the states"


# --- dying before and within each change to the disk


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


def fresh(made: Made, dst: Path, label: str | None) -> None:
    shutil.rmtree(dst, ignore_errors=True)
    shutil.rmtree(dst.with_name(f".{dst.name}.p2u"), ignore_errors=True)
    if label:
        shutil.copytree(made.states[label], dst)
        (dst / "mine").mkdir()
        (dst / "mine" / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("label", "until", "in_place", "exchange", "torn"),
    [
        (None, "base", False, True, False),
        ("base", "8bit", False, True, False),
        ("base", "8bit", False, True, True),
        ("base", "8bit", False, False, True),
        ("base", "8bit", True, True, False),
        ("base", "8bit", True, True, True),
    ],
)
def test_dying_at_every_change(made, tmp_path, label, until, in_place, exchange, torn):
    dst = tmp_path / "dst"
    options = {"until": until, "in_place": in_place, "jobs": 1}
    count = 0
    fresh(made, dst, label)
    deaths = lives(
        lambda life: pull(made.package, dst, **options), stride=1, torn=torn, exchange=exchange
    )
    for at in deaths:
        count += 1
        found = made.label(dst)
        if not in_place and (exchange or dst.exists()):
            assert found in (label, until), f"after change {at} the folder is no state"
        if label and dst.exists():
            assert (dst / "mine" / "notes.txt").read_text() == "mine"
        result = pull(made.package, dst, **options)
        assert result.state == until
        assert made.label(dst) == until, f"after change {at}"
        if label:
            assert (dst / "mine" / "notes.txt").read_text() == "mine"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["dst"]
        fresh(made, dst, label)
    assert count > 20


@pytest.mark.parametrize("seed", range(12))
def test_dying_again_and_again(made, tmp_path, seed):
    """Each run makes a few changes and dies; in the end all is well, whatever the mode."""
    dst = tmp_path / "dst"
    rng = random.Random(seed)
    deaths = 0
    for _ in range(400):
        in_place = rng.random() < 0.5
        with mortal(rng.randint(1, 60), torn=True, exchange=rng.random() < 0.5):
            try:
                pull(made.package, dst, in_place=in_place, jobs=2)
            except Killed:
                deaths += 1
                continue
            break
    assert deaths > 2
    assert tree(dst) == tree(made.model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst"]
