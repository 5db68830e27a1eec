"""Killed at any moment, a pull loses nothing: the next run goes on where it was.

Two ways: real processes get SIGKILL at random moments, and a simulation dies before and in the
middle of every single change to the disk, one after the other.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import kit
import pytest
from killing import Killed, lives, mortal, start
from kit import Made, tree
from pulling import pull_with
from waiting import until

from p2u.client.folder import work_folder
from p2u.client.folder.journal import read_journal
from p2u.client.folder.pull import pull
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.transfer.requests import RequestSizes


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
def test_kill_9_at_ten_random_moments(made, tmp_path, in_place):
    rng = random.Random(20 + in_place)
    total = made.manifest.states[-1].bytes
    seen = set()
    server, app = kit.counting_server(made.package)
    with server:
        for number, key in enumerate([*[""] * 10, "8bit-000.bin", "exact-000.bin"]):
            dst = tmp_path / f"dst{number}"
            app.reset()
            # One moment in each tenth of the bytes, and each time that a state is complete.
            moment = total * (number + rng.random()) / 10 if not key else total
            app.hold_back(after=int(moment), key=key)
            process = start(server.url, dst, in_place)
            until(lambda: app.silent.is_set() or process.poll() is not None)  # noqa: B023
            if key:  # the state before it is complete without its bytes, however long that takes
                before = kit.STATES[kit.STATES.index(key.partition("-")[0]) - 1]
                until(lambda: made.label(dst) == before)  # noqa: B023
            time.sleep(0.03 * rng.random())
            process.kill()
            process.wait()
            state = made.label(dst)
            seen.add((state, dst.exists()))
            if not in_place:
                assert state is not None or not dst.exists()
            missing, objects = missing_bytes(made, dst)
            app.reset()
            result = pull_with(
                server.url, dst, in_place=in_place, sizes=RequestSizes(gap=0), straight=False
            )
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
    assert seen >= {(None, False), ("base", True), ("8bit", True)}


# --- dying before and within each change to the disk


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same model in few chunks: each is several changes, and each change two pulls."""
    return kit.make(tmp_path_factory.mktemp("few"), chunk=1 << 16)


def fresh(made: Made, dst: Path, label: str | None) -> None:
    shutil.rmtree(dst, ignore_errors=True)
    shutil.rmtree(dst.with_name(f".{dst.name}.p2u"), ignore_errors=True)
    if label:
        shutil.copytree(made.states[label], dst)
        (dst / "mine").mkdir()
        (dst / "mine" / "notes.txt").write_text("mine")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "target", "in_place", "exchange", "torn"),
    [
        (None, "base", False, True, False),
        ("base", "8bit", False, True, False),
        ("base", "8bit", False, True, True),
        ("base", "8bit", False, False, True),
        ("base", "8bit", True, True, False),
        ("base", "8bit", True, True, True),
        # Straight: several levels at once.
        (None, "exact", False, True, True),
        ("base", "exact", False, True, False),
        ("base", "exact", False, False, True),
        ("base", "exact", True, True, True),
    ],
)
def test_dying_at_every_change(few, tmp_path, label, target, in_place, exchange, torn):
    made, dst = few, tmp_path / "dst"
    options = {"until": target, "in_place": in_place, "jobs": 1, "straight": True}
    count = 0
    fresh(made, dst, label)
    deaths = lives(
        lambda life: pull(made.package, dst, **options), stride=1, torn=torn, exchange=exchange
    )
    for at in deaths:
        count += 1
        found = made.label(dst)
        if not in_place and (exchange or dst.exists()):
            assert found in (label, target), f"after change {at} the folder is no state"
        if label and dst.exists():
            assert (dst / "mine" / "notes.txt").read_text() == "mine"
        result = pull(made.package, dst, **options)
        assert result.state == target
        assert made.label(dst) == target, f"after change {at}"
        if label:
            assert (dst / "mine" / "notes.txt").read_text() == "mine"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["dst"]
        fresh(made, dst, label)
    assert count > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_dying_again_and_again(made, tmp_path, seed):
    """Each run makes a few changes and dies; in the end all is well, whatever the mode."""
    dst = tmp_path / "dst"
    rng = random.Random(seed)
    deaths = 0
    for _ in range(400):
        in_place, straight = rng.random() < 0.5, rng.choice((None, True, False))
        with mortal(rng.randint(1, 60), torn=True, exchange=rng.random() < 0.5):
            try:
                pull(made.package, dst, in_place=in_place, jobs=2, straight=straight)
            except Killed:
                deaths += 1
                continue
            break
    assert deaths > 2
    assert tree(dst) == tree(made.model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dst"]
