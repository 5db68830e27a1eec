"""The digest of a file that is written in any order, by several threads."""

from __future__ import annotations

import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2u.client.transfer.running_digest import RunningDigest


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("digest") / "file"


def prepared(
    path: Path, ranges: list[tuple[int, int, bool]]
) -> tuple[bytes, list[tuple[int, int]]]:
    """A file's bytes at the end; it is written but for the ranges, which are zeros still."""
    size = sum(length for *_, length, _ in ((0, *r[1:]) for r in ranges))
    data = random.Random(size).randbytes(size)
    missing, at, before = [], 0, bytearray(data)
    for _, length, is_missing in ranges:
        if is_missing and length:
            missing.append((at, length))
            before[at : at + length] = bytes(length)
        at += length
    path.write_bytes(before)
    return data, missing


def reading(path: Path, check=lambda: None):
    """Reads bytes of a file back, a thousand at a time."""

    def read(start: int, stop: int):
        with open(path, "rb") as file:
            file.seek(start)
            for at in range(start, stop, 1000):
                check()
                yield memoryview(file.read(min(1000, stop - at)))

    return read


def write(path: Path, digest: RunningDigest, data: bytes, span: tuple[int, int]) -> None:
    start, length = span
    part = memoryview(data)[start : start + length]
    with open(path, "rb+") as file:
        file.seek(start)
        file.write(part)
    digest.written(start, part)


RANGES = st.lists(st.tuples(st.just(0), st.integers(0, 3000), st.booleans()), max_size=12)


@settings(max_examples=60)
@given(RANGES, st.randoms(use_true_random=False))
def test_any_order_gives_the_digest(path: Path, ranges, rng) -> None:
    data, missing = prepared(path, ranges)
    digest = RunningDigest(len(data), missing, reading(path))
    rng.shuffle(missing)
    for span in missing:
        write(path, digest, data, span)
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("seed", range(5))
def test_several_threads(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data, missing = prepared(path, [(0, rng.randint(1, 60_000), rng.random() < 0.8)] * 40)
    digest = RunningDigest(len(data), missing, reading(path))
    rng.shuffle(missing)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda span: write(path, digest, data, span), missing))
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


def test_bytes_in_order_are_not_read_back(path: Path) -> None:
    data, missing = prepared(path, [(0, 5000, True)] * 8)
    digest = RunningDigest(len(data), missing, None)
    for span in missing:
        write(path, digest, data, span)
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


def test_the_end_waits_for_a_thread_that_hashes(path: Path) -> None:
    data, missing = prepared(path, [(0, 0, False), (0, 5000, True), (0, 5000, True)])
    going, go_on = threading.Event(), threading.Event()

    def check() -> None:
        going.set()
        go_on.wait(10)

    digest = RunningDigest(len(data), missing, reading(path, check))
    write(path, digest, data, missing[1])
    with ThreadPoolExecutor(2) as pool:
        # It reads the second range back, and is held up there.
        first = pool.submit(write, path, digest, data, missing[0])
        assert going.wait(10)
        last = pool.submit(digest.hexdigest)
        threading.Event().wait(0.02)
        assert not last.done()
        go_on.set()
        first.result()
        assert last.result() == hashlib.sha256(data).hexdigest()


def test_a_file_that_cannot_be_read_back_is_an_error_each_time(path: Path) -> None:
    data, missing = prepared(path, [(0, 5000, True), (0, 5000, True)])
    digest = RunningDigest(len(data), missing, reading(path))
    digest.written(5000, memoryview(data)[5000:])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        digest.written(0, memoryview(data)[:5000])
    with pytest.raises(FileNotFoundError):
        digest.hexdigest()
