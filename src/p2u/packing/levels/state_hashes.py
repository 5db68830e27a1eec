"""Hash every file in every state, while the chunks that make it up come in any order.

A digest needs a file's bytes in order, and a chunk may hold rows from all over the files. So a
chunk waits until the bytes before its own were hashed. If too many wait, those that are due last
are dropped, and decoded again in the end.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2u.codec import plain
from p2u.package.geometry import Span
from p2u.packing.chunking.pool import BufferPool, in_order
from p2u.types import ModelFile

#: Bytes of chunks that may wait, in all their states.
KEEP = 32 << 20

#: The bytes of a chunk in each state; one if all are equal.
States = tuple[memoryview, ...]
#: A file's number and an offset in it.
_Place = tuple[int, int]


class _FileHash:
    """The digests of one file.

    Attributes:
        at: Bytes that were hashed.
        busy: A thread is hashing some more.
    """

    def __init__(self, states: int) -> None:
        self.at = 0
        self.busy = False
        self._count = states
        self._differs = False
        # All states and payloads in step are much faster than one after the other, where that can
        # be had.
        self._core = plain.sha256(2 * states)
        self._hashes = [] if self._core else [hashlib.sha256() for _ in range(states)]

    def update(self, states: States, part: slice, messages: Sequence[bytes] = ()) -> list[bytes]:
        """Append a part of a chunk; returns the digests of at most as many messages as states."""
        views = [state[part] for state in states]
        self._differs = self._differs or len(views) > 1
        every = [views[min(n, len(views) - 1)] for n in range(self._count)]
        if self._core is None:
            for found, view in zip(self._hashes, every, strict=True):
                found.update(view)
            return plain.sha256_each(messages)
        self._core.update([*every, *messages, *[b""] * (self._count - len(messages))])
        digests = []
        for number in range(self._count, self._count + len(messages)):
            digests.append(self._core.digest(number))
            self._core.restart(number)
        return digests

    def digests(self) -> tuple[str, ...]:
        """The digests in hex; a single one if no chunk differs between states."""
        if self._core:
            found = tuple(self._core.digest(n).hex() for n in range(self._count))
        else:
            found = tuple(one.hexdigest() for one in self._hashes)
        return found if self._differs else found[:1]


@dataclass(frozen=True, slots=True)
class _Part:
    """Where in its chunk a span begins, and how long it is."""

    chunk: int
    start: int
    size: int


class StateHashes:
    """The digests of all files; chunks may be added by many threads at once.

    Args:
        files: The files.
        states: In how many states each of them may differ.
        buffers: Where memory is given back to.
    """

    def __init__(
        self, files: Sequence[ModelFile], states: Sequence[int], buffers: BufferPool | None = None
    ) -> None:
        self._files = [_FileHash(count) for count in states]
        assert len(files) == len(self._files)
        self._buffers = buffers or BufferPool(0)
        self._parts: dict[_Place, _Part] = {}
        self._due: dict[int, set[_Place]] = {}
        self._waiting: dict[int, States] = {}
        self._size = 0
        self._busy = 0
        self._changed = threading.Condition()

    def expect(self, chunk: int, spans: Sequence[Span], only: int | None = None) -> None:
        """Announce a chunk that is to be decoded in the end.

        Args:
            chunk: A number of its own.
            spans: The places of its bytes.
            only: The one file that is hashed here, as number 0; None for all.
        """
        start = 0
        for span in spans:
            if span.size and only in (None, span.file):
                place = span.file if only is None else 0, span.offset
                self._parts[place] = _Part(chunk, start, span.size)
                self._due.setdefault(chunk, set()).add(place)
            start += span.size

    def hash_now(
        self, spans: Sequence[Span], states: States, messages: Sequence[bytes]
    ) -> list[bytes] | None:
        """Hash a chunk if it is a single span that is due, and messages in step with it.

        Args:
            spans: The places of its bytes.
            states: Its bytes.
            messages: Any bytes, at most as many as the states of the file.

        Returns:
            The digests of the messages; None if the chunk has to be added instead.
        """
        span = spans[0]
        file = self._files[span.file]
        with self._changed:
            if len(spans) > 1 or file.busy or file.at != span.offset:
                return None
            file.busy = True
            self._busy += 1
        try:
            digests = file.update(states, slice(0, span.size), messages)
        finally:
            with self._changed:
                file.busy = False
                self._busy -= 1
                file.at += span.size
                self._changed.notify_all()
        while self._advance(span.file):
            pass
        return digests

    def add(self, chunk: int, spans: Sequence[Span], states: States) -> None:
        """Hash a chunk, now or when it is due.

        Args:
            chunk: A number of its own.
            spans: The places of its bytes, at least one.
            states: Its bytes; they must not change any more.
        """
        with self._changed:
            self.expect(chunk, spans)
            self._hold(chunk, states)
        for file in sorted({span.file for span in spans}):
            while self._advance(file):
                pass
        with self._changed:
            # What is due is hashed by another thread now; what is not gives way.
            while self._size > KEEP and self._busy:
                self._changed.wait()
            self._make_room()

    def _hold(self, chunk: int, states: States) -> None:
        self._waiting[chunk] = states
        self._size += sum(map(len, states))

    def _let_go(self, chunk: int) -> None:
        states = self._waiting.pop(chunk)
        self._size -= sum(map(len, states))
        self._buffers.give(states)

    def _make_room(self) -> None:
        while self._size > KEEP and self._waiting:
            # The one that is due last costs least, if it has to be decoded again.
            self._let_go(max(self._waiting, key=lambda n: min(self._due[n])))

    def _advance(self, number: int) -> bool:
        """Hash a file's next span if it is there and no other thread is about it."""
        file = self._files[number]
        with self._changed:
            place = number, file.at
            part = self._parts.get(place)
            if file.busy or part is None or part.chunk not in self._waiting:
                return False
            file.busy = True
            self._busy += 1
            states = self._waiting[part.chunk]
        try:
            file.update(states, slice(part.start, part.start + part.size))
        finally:
            with self._changed:
                file.busy = False
                self._busy -= 1
                self._done(place)
                self._changed.notify_all()
        return True

    def _done(self, place: _Place) -> None:
        part = self._parts.pop(place)
        self._files[place[0]].at += part.size
        due = self._due[part.chunk]
        due.remove(place)
        if not due:
            del self._due[part.chunk]
            self._let_go(part.chunk)

    def finish(
        self,
        decode: Callable[[int], States],
        cost: Callable[[int], int],
        jobs: int,
        budget: int,
        progress: Callable[[int], None],
    ) -> list[tuple[str, ...]]:
        """Hash what is left, and decode what is not there.

        Args:
            decode: Gives a chunk's bytes in all states; called in ``jobs`` threads.
            cost: Memory that this takes, bytes, about.
            jobs: Threads.
            budget: Bytes of memory for chunks that are being decoded.
            progress: Told the number of bytes done.

        Returns:
            For each file, its SHA-256 in hex in every state; a single one if all are equal.
        """
        done = sum(file.at for file in self._files)
        left = sorted(self._parts)
        order = dict.fromkeys(self._parts[place].chunk for place in left)
        missing = [chunk for chunk in order if chunk not in self._waiting]
        decoded = in_order(missing, decode, cost, jobs, budget)
        first = set(missing)
        try:
            for place in left:
                part = self._parts[place]
                if part.chunk in first:
                    first.remove(part.chunk)
                    self._hold(*next(decoded))
                elif part.chunk not in self._waiting:
                    self._hold(part.chunk, decode(part.chunk))
                span = slice(part.start, part.start + part.size)
                self._files[place[0]].update(self._waiting[part.chunk], span)
                self._done(place)
                self._make_room()
                done += part.size
                progress(done)
        finally:
            decoded.close()
        return [file.digests() for file in self._files]
