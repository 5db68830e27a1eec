"""Where a live replica stages what comes next: its choice, faults of decoding and of the disk."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import kit
import pytest
from following import files
from kit import Made
from live_kit import flips_a_bit, open_with
from store_kit import WrapperStore

import p2u
from p2u.client.live.low_priority import NICE
from p2u.client.live.staging.copied import merge
from p2u.client.live.staging.spool import Spool
from p2u.client.live.staging.tools import StagingTools, available_memory
from p2u.codec.chunk import apply_chunks
from p2u.errors import DiskError, FormatError, IntegrityError
from p2u.stores import LocalStore, Store

STAGINGS = ("copy", "chunks")


class PriorityStore(WrapperStore):
    """Notes, by label, the priorities of threads that have read and applied a stream."""

    def __init__(self, store: Store, nice: dict[str, set[int]]) -> None:
        super().__init__(store)
        self.nice = nice

    def stream(self, key, start, length):
        try:
            yield from super().stream(key, start, length)
        finally:
            found = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            self.nice.setdefault(key.partition("-")[0], set()).add(found)


def test_a_faulty_package(made: Made) -> None:
    """A decoder's fault: found before the commit where that is possible, never served."""
    faulty = flips_a_bit("8bit")
    base = kit.tree(made.states["base"])
    with open_with(made.package, staging="copy", decode=faulty, check="all") as replica:
        with pytest.raises(IntegrityError, match="SHA-256"):
            replica.wait()
        with replica.pinned() as label:
            assert label == "base"
            assert files(replica) == base
        with pytest.raises(IntegrityError):
            replica.resume()
    for options in ({"staging": "chunks"}, {"mode": "eager"}):
        with open_with(made.package, decode=faulty, check="all", **options) as replica:
            with pytest.raises(IntegrityError, match="SHA-256"):
                replica.wait()
            with pytest.raises(IntegrityError), replica.pinned():
                pass
            with pytest.raises(IntegrityError):
                replica.resume()


def test_a_chunk_that_cannot_be_decoded(made: Made) -> None:
    def refusing(chunks, layout, spans, buffers):
        for c in chunks:
            if c.key.startswith("exact") and c.chunk.number == 7:
                raise FormatError("malformed", file=c.key)
        apply_chunks(chunks, layout, spans, buffers)

    for way, valid in (("copy", True), ("chunks", False)):
        with open_with(made.package, staging=way, decode=refusing) as replica:
            with pytest.raises(FormatError, match="exact-000"):
                replica.wait()
            if valid:
                with replica.pinned() as label:
                    assert files(replica) == kit.tree(made.states[label])
            else:
                with pytest.raises(FormatError), replica.pinned():
                    pass


def test_a_full_disk_can_be_mended(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with open_with(made.package, jobs=1, spool_memory=0, spool_folder=folder) as replica:
        with pytest.raises(DiskError, match="gone"):
            replica.wait()
        with replica.pinned() as label:
            assert label == "base"
        folder.mkdir()
        replica.resume()
        replica.wait(timeout=20)
        assert files(replica) == kit.tree(made.model)
    assert not list(folder.iterdir())


def test_the_spool_keeps_what_it_is_given() -> None:
    kept = Spool(StagingTools(spool_memory=100))
    payloads = {n: bytes([n]) * (n * 7 % 60) for n in range(40)}
    for number, data in payloads.items():
        kept.put(number, memoryview(data))
    assert {n: bytes(kept.get(n)) for n in reversed(payloads)} == payloads
    assert len(kept._kept) < 30
    kept.close()


def test_what_auto_chooses(made: Made) -> None:
    for free, way in ((None, "copy"), (1 << 40, "copy"), (1000, "chunks")):
        memory = lambda free=free: free  # noqa: E731
        with open_with(made.package, staging="auto", free_memory=memory) as replica:
            replica.wait()
            assert replica.staging == way
            assert files(replica) == kit.tree(made.model)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_available_memory() -> None:
    found = available_memory()
    assert found is not None and 1 << 20 < found < 1 << 46


def test_merged_ranges() -> None:
    spans = [(1, 5, 5), (0, 10, 2), (0, 0, 4), (0, 4, 3), (0, 5, 1), (1, 20, 1)]
    assert merge(spans) == {0: [(0, 7), (10, 12)], 1: [(5, 10), (20, 21)]}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities per thread")
def test_refining_is_done_by_nicer_threads(made: Made) -> None:
    nice: dict[str, set[int]] = {}

    def noting(chunks, layout, spans, buffers):
        found = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        for c in chunks:
            nice.setdefault(c.key.partition("-")[0], set()).add(found)
        apply_chunks(chunks, layout, spans, buffers)

    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with open_with(made.package, staging="copy", decode=noting) as replica:
        replica.wait()
    assert nice["base"] == {mine}
    # The tests themselves may be as nice as can be.
    assert nice["8bit"] | nice["exact"] == {min(19, mine + NICE)}
    nice.clear()
    with open_with(made.package, staging="chunks", decode=noting) as replica:
        replica.wait()
    # They keep everybody waiting.
    assert nice["8bit"] == {mine}
    nice.clear()
    p2u.load(PriorityStore(LocalStore(made.package), nice), "exact")
    assert nice["8bit"] == nice["exact"] == {mine}
