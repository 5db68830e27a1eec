"""The contract of an engine, and of the work that it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from p2u.packing.engines.coded import Payload
from p2u.packing.engines.places import Place

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class StartedWork(Protocol[T_contra, R_co]):
    """Work that can begin; used by many threads at once."""

    def cost(self, item: T_contra, /) -> int:
        """Memory that an item takes, bytes, about."""

    def run(self, item: T_contra, /) -> R_co:
        """Do an item."""


class Work(ABC, Generic[T, R]):
    """The same to do with many items. An engine may send it to other processes, pickled.

    Attributes:
        streams: Most payloads of a result that is a `Coded`; 0 if results have no payloads.
        threads: Processors that one item keeps busy.
    """

    streams: int = 0
    threads: int = 1

    @abstractmethod
    def start(self) -> StartedWork[T, R]:
        """What it needs in memory; once per process."""

    @abstractmethod
    def size(self, item: T) -> int:
        """Bytes of the model that an item is about: small items are sent together."""


class BlobStream(ABC):
    """A blob that is being written."""

    @abstractmethod
    def add(self, payload: Payload) -> None:
        """Append a payload.

        Raises:
            DiskError: It cannot be written.
        """

    @abstractmethod
    def finish(self) -> None:
        """Write what is left, at the latest until `Engine.settle`.

        Raises:
            DiskError, StoreError: It cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Give up a blob that is not finished."""


class Engine(ABC):
    """Runs the work of packing.

    Attributes:
        workers: How many items it does at the same time.
        shares_memory: Whether its workers are threads of this process.
    """

    workers: int
    shares_memory: bool

    @abstractmethod
    def run(
        self, work: Work[T, R], items: Iterable[T], budget: int
    ) -> Generator[tuple[T, R], None, None]:
        """Yield each item with its result, in the order of the items.

        Args:
            work: What to do.
            items: With what.
            budget: Most bytes of memory that items under way take in this process.

        Raises:
            What the work raises, for the first item concerned.
            WorkerError: Workers died again and again.
        """

    @abstractmethod
    def open_blob(self, place: Place, key: str) -> BlobStream:
        """Begin a blob."""

    @abstractmethod
    def settle(self) -> dict[str, str]:
        """Wait until all finished blobs are written.

        Returns:
            The keys that had to be other ones: the one wanted, and the one that it became.

        Raises:
            DiskError, StoreError: One cannot be written.
        """

    def threads_each(self, items: int) -> int:
        """How many threads each of so many large items can have, if all run at the same time."""
        return max(1, self.workers // max(1, items))

    def close(self) -> None:  # noqa: B027 - an engine without processes has nothing to do
        """End what runs, and free all resources."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
