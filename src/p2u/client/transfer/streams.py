"""Read the payloads of one request: one stream of bytes for each update that has some of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable

from p2u.errors import StoreError
from p2u.package.geometry import Chunk

#: Bytes worth a read of a patient run, and seconds in which they may gather.
PORTION, GATHER = 64 << 10, 0.01


class Pieces:
    """A stream of pieces, read in other portions.

    Args:
        pieces: The stream.
        arrived: Called with the size of each piece.
        count: Called with the bytes that were wanted; negative if not all of them came.
        patient: Whether bytes are to gather before they are read.
    """

    def __init__(
        self,
        pieces: Generator[bytes, None, None],
        arrived: Callable[[int], None],
        count: Callable[[int], None],
        patient: Callable[[], bool],
    ) -> None:
        self._source = pieces
        self._arrived = arrived
        self._count = count
        self._patient = patient
        self._short = False
        self._rest = memoryview(b"")

    def skip(self, count: int) -> None:
        """Drop bytes."""
        while count:
            count -= len(self._some(count))

    def fill(self, out: memoryview) -> None:
        """The next bytes, counted as progress; not counted if they do not all come."""
        at = 0
        try:
            while at < len(out):
                piece = self._some(len(out) - at)
                out[at : at + len(piece)] = piece
                at += len(piece)
                self._count(len(piece))
        except BaseException:
            self._count(-at)
            raise

    def begin(self) -> None:
        """Wait for the next bytes; those after them come on their own."""
        if self._rest:
            return
        if self._short and self._patient():
            time.sleep(GATHER)
        piece = next(self._source, b"")
        self._short = len(piece) < PORTION
        if not piece:
            raise StoreError("the stream ended early", retryable=True)
        self._arrived(len(piece))
        self._rest = memoryview(piece)

    def _some(self, most: int) -> memoryview:
        self.begin()
        part, self._rest = self._rest[:most], self._rest[most:]
        return part

    def close(self) -> None:
        """Free the connection."""
        self._source.close()


#: Opens bytes of a blob: the update's place, the blob's number, start and end.
Open = Callable[[int, int, int, int], Pieces]


class RequestStreams:
    """The streams of one request, all opened when the first bytes are asked for.

    Args:
        chunks: All that is to be read, in the order of their starts, each with its update's place.
        open_: Opens a stream.
        whole: Streams begin at the beginning of their blobs.
    """

    def __init__(self, chunks: Iterable[tuple[int, Chunk]], open_: Open, *, whole: bool) -> None:
        self._begin = open_
        #: By update: the blob, and where its stream begins and ends.
        self._ranges: dict[int, tuple[int, int, int]] = {}
        for update, chunk in chunks:
            known = self._ranges.get(update, (chunk.blob, 0 if whole else chunk.start, 0))
            self._ranges[update] = (known[0], known[1], chunk.start + chunk.length)
        #: By update: the stream, and the byte at which it stands.
        self._open: dict[int, tuple[Pieces, int]] = {}

    def fill(self, update: int, chunk: Chunk, out: memoryview) -> None:
        """Read the next chunk of an update."""
        if not self._open:
            for number, (blob, start, end) in self._ranges.items():
                self._open[number] = self._begin(number, blob, start, end), start
            for pieces, _ in self._open.values():
                # Bytes of all of them come while one is read.
                pieces.begin()
        pieces, at = self._open[update]
        pieces.skip(chunk.start - at)
        pieces.fill(out)
        self._open[update] = pieces, chunk.start + chunk.length

    def close(self) -> None:
        """Free the connections."""
        for pieces, _ in self._open.values():
            pieces.close()
