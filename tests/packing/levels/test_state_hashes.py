"""Digests of every state do not depend on the order in which chunks come, nor on who drops them."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.package.geometry import Span
from p2u.packing.chunking.pool import BufferPool
from p2u.packing.levels import state_hashes
from p2u.packing.levels.state_hashes import StateHashes, States
from p2u.types import ModelFile

STATES = 3


@dataclass
class Model:
    """Files in three states, cut into chunks; some chunks are equal in all states."""

    files: list[ModelFile]
    counts: list[int]
    spans: list[list[Span]]
    states: list[list[bytes]]
    contents: list[list[bytes]]

    def chunk(self, number: int) -> States:
        return tuple(memoryview(bytearray(state)) for state in self.states[number])

    def digests(self) -> list[tuple[str, ...]]:
        found = []
        for states in self.contents:
            digests = tuple(hashlib.sha256(state).hexdigest() for state in states)
            found.append(digests if len(set(states)) > 1 else digests[:1])
        return found


def make(seed: int, sizes: list[int], chunks: int) -> Model:
    rng = random.Random(seed)
    contents = [[b"", b"", b""] for _ in sizes]
    spans: list[list[Span]] = [[] for _ in range(chunks)]
    states = [[b"" for _ in range(STATES if n % 3 else 1)] for n in range(chunks)]
    parts: list[list[tuple[Span, list[bytes]]]] = [[] for _ in range(chunks)]
    for file, size in enumerate(sizes):
        at = 0
        while at < size:
            length = min(rng.randint(1, 40), size - at)
            chunk = rng.randrange(chunks)
            found = [rng.randbytes(length) for _ in states[chunk]]
            parts[chunk].append((Span(file, at, length), found))
            for n in range(STATES):
                contents[file][n] += found[min(n, len(found) - 1)]
            at += length
    for chunk, own in enumerate(parts):
        rng.shuffle(own)
        spans[chunk] = [span for span, _ in own]
        states[chunk] = [b"".join(f[n] for _, f in own) for n in range(len(states[chunk]))]
    spans, states = [s for s in spans if s], [x for x, s in zip(states, spans, strict=True) if s]
    counts = [1] * len(sizes)
    for chunk, own_spans in enumerate(spans):
        for span in own_spans:
            counts[span.file] = max(counts[span.file], len(states[chunk]))
    files = [ModelFile(str(n), size) for n, size in enumerate(sizes)]
    return Model(files, counts, spans, states, contents)


def finish(hashes: StateHashes, model: Model, jobs: int = 1) -> tuple[list[tuple[str, ...]], int]:
    """The digests, and how many chunks had to be decoded again."""
    again = []

    def decode(number: int) -> States:
        again.append(number)
        return model.chunk(number)

    found = hashes.finish(decode, lambda _: 1, jobs, 1 << 20, lambda _: None)
    return found, len(again)


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 400), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from([0, 100, 1 << 20]),
    st.data(),
)
def test_chunks_in_any_order(
    seed: int, sizes: list[int], chunks: int, keep: int, data: st.DataObject
) -> None:
    model = make(seed, sizes, chunks)
    order = data.draw(st.permutations(range(len(model.spans))))
    # Some are only announced, as those of a version update are.
    known = data.draw(st.integers(0, len(order)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_hashes, "KEEP", keep)
        hashes = StateHashes(model.files, model.counts, BufferPool(100))
        for number in order[:known]:
            hashes.add(number, model.spans[number], model.chunk(number))
        for number in order[known:]:
            hashes.expect(number, model.spans[number])
        found, again = finish(hashes, model)
    assert found == model.digests()
    if keep == 1 << 20:
        assert again == len(order) - known


def test_chunks_in_the_order_of_the_files_are_never_decoded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_hashes, "KEEP", 0)
    spans = [[Span(0, 10 * n, 10)] for n in range(20)]
    data = random.Random(1).randbytes(200)
    hashes = StateHashes([ModelFile("f", 200)], [1])
    for n in range(20):
        part = memoryview(bytearray(data[10 * n : 10 * n + 10]))
        hashes.add(n, spans[n], (part,))
    seen: list[int] = []

    def decode(_: int) -> States:
        raise AssertionError

    assert hashes.finish(decode, lambda _: 1, 1, 1, seen.append) == [
        (hashlib.sha256(data).hexdigest(),)
    ]
    assert seen == []


@pytest.mark.parametrize("keep", [1 << 20, 2000])
def test_many_threads(monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    monkeypatch.setattr(state_hashes, "KEEP", keep)
    for seed in range(20):
        model = make(seed, [3000, 0, 500], 40)
        hashes = StateHashes(model.files, model.counts, BufferPool(4000))
        with ThreadPoolExecutor(8) as pool:
            added = [
                pool.submit(hashes.add, n, model.spans[n], model.chunk(n))
                for n in random.Random(seed).sample(range(len(model.spans)), len(model.spans))
            ]
        for done in added:
            done.result()
        assert finish(hashes, model, jobs=3)[0] == model.digests()


def test_memory_is_given_back_once_it_was_hashed() -> None:
    buffers = BufferPool(1 << 20)
    hashes = StateHashes([ModelFile("f", 4)], [1], buffers)
    first, second = buffers.take(2), buffers.take(2)
    first[:], second[:] = b"ab", b"cd"
    hashes.add(1, [Span(0, 2, 2)], (second,))
    assert buffers.take(2).obj not in (first.obj, second.obj)
    hashes.add(0, [Span(0, 0, 2)], (first,))
    assert {id(buffers.take(2).obj), id(buffers.take(2).obj)} == {id(first.obj), id(second.obj)}
    assert finish(hashes, make(0, [], 1))[0] == [(hashlib.sha256(b"abcd").hexdigest(),)]
