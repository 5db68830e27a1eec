"""A version that `Replica.fetch` has staged: its tensors, before and after its commit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2u.client.live.memory import ModelMemory, array_of
from p2u.client.live.staging.chained import ChainedUpdate, gaps
from p2u.client.live.staging.copied import copy
from p2u.errors import ConflictError, UsageError
from p2u.names.order import forward_key
from p2u.package.geometry import Span
from p2u.package.layout import ReleaseLayout, Tensor
from p2u.package.manifest import State

if TYPE_CHECKING:
    import numpy as np

    from p2u.client.live.live_transfer import LiveTransfer

#: Bytes that are compared at a time: they stay in a processor's cache.
_COMPARED = 1 << 20


@dataclass(slots=True)
class Timings:
    """Seconds of the phases of one version.

    Attributes:
        fetch: Until all of it was here and decoded, the wait for its publication included.
        decode: Of that time, spent decoding, summed over all threads.
        check: Comparing files with their digests.
        commit: For which nobody could have a pin; 0 before the commit.
    """

    fetch: float = 0.0
    decode: float = 0.0
    check: float = 0.0
    commit: float = 0.0


@dataclass(frozen=True, slots=True)
class SparseTensor:
    """The elements of a tensor that a version changes.

    Attributes:
        name: Of the tensor.
        indices: Of the flat tensor, in order; of the shape ``[n]``, int32 where that is enough,
            else int64.
        values: Their new values, of the shape ``[n]`` and the tensor's dtype.
    """

    name: str
    indices: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


class StagedVersion:
    """A version next to the model, decoded and checked; made by `Replica.fetch`.

    The tensors that it gives are views: they are valid until the next `Replica.fetch`, `discard` or
    `rollback`. The first version of a replica replaces nothing: its `source` is None, it has no
    `discard`, and `commit` only ends the staging.

    Args:
        transfer: Commits it.
        memory: Of the model.
        source: The state that the memory holds before; None for the first version.
        target: The version's.
        step: Holds the bytes that change; None for the first version.
        timings: So far.

    Attributes:
        source: The state that it begins at.
        target: The state that it leads to.
        timings: Seconds of its phases.
    """

    def __init__(
        self,
        transfer: LiveTransfer,
        memory: ModelMemory,
        source: State | None,
        target: State,
        step: ChainedUpdate | None,
        timings: Timings,
    ) -> None:
        self.source = source
        self.target = target
        self.timings = timings
        self._transfer = transfer
        self._memory = memory
        self._step = step
        self._committed = self._ended = False
        self._named = dict(sorted(memory.named().items(), key=lambda item: forward_key(item[0])))
        brought = [name for name, tensor in self._named.items() if self._brings(tensor)]
        if step is not None:
            brought = [name for name in brought if self._complete(step, self._named[name])]
        self._changed = frozenset(brought)

    def _brings(self, tensor: Tensor) -> bool:
        """Whether the update brings bytes of a tensor."""
        if self._step is None:
            return True
        ranges = self._step.covered.get(tensor.file, ())
        end = tensor.offset + tensor.length
        return any(start < end and stop > tensor.offset for start, stop in ranges)

    def _complete(self, step: ChainedUpdate, tensor: Tensor) -> bool:
        """Copy the rest of a tensor next to what the update brings; returns whether it changes."""
        old, new = self._memory.regions[tensor.file], step.spare[tensor.file]
        for start, end in gaps(_place(tensor), step.covered):
            copy(new[start:end], old[start:end])
        end = tensor.offset + tensor.length
        parts = [(at, min(at + _COMPARED, end)) for at in range(tensor.offset, end, _COMPARED)]
        return any(old[at:stop] != new[at:stop] for at, stop in parts)

    @property
    def version(self) -> str:
        """Name of the version, ``"step7"``."""
        return self.target.version

    @property
    def digest(self) -> str:
        """Digest of the state."""
        return self.target.digest

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, in forward order; see `Replica.tensors`."""
        return tuple(self._named)

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that the version changes, in forward order."""
        return tuple(name for name in self._named if name in self._changed)

    def tensor(self, name: str) -> Tensor:
        """A tensor, for `bytes_of`."""
        return self._named[name]

    @property
    def memory(self) -> ModelMemory:
        """The model's: it has the values before, until the commit."""
        return self._memory

    @property
    def first(self) -> ReleaseLayout:
        """See `ModelMemory.first`."""
        return self._memory.first

    def select(
        self, have: str | None = None, group: Callable[[str], str] | None = None
    ) -> list[tuple[str, Tensor]]:
        """Names and tensors to give to an engine, in forward order, for `bytes_of`.

        Args:
            have: Digest of the state that the engine's weights are of: what has changed since is
                enough. None: unknown, so all tensors are given.
            group: Gives the group of a name: where one tensor of a group has changed, all of them
                are given, since engines fuse some and load them together only.

        Raises:
            ConflictError: The engine's weights are neither those that the version begins at nor its
                own.
            UsageError: It was discarded.
        """
        self._check()
        if have is None or (self.source is None and have == self.digest):
            return list(self._named.items()) if have is None else []
        self._check_source(have)
        wanted = self._changed
        if group is not None:
            groups = {group(name) for name in wanted}
            wanted = frozenset(name for name in self._named if group(name) in groups)
        return [(name, tensor) for name, tensor in self._named.items() if name in wanted]

    def tensors(
        self, have: str | None = None, group: Callable[[str], str] | None = None
    ) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Names and read-only arrays with the version's values, in forward order.

        Args:
            have: See `select`.
            group: See `select`.

        Raises:
            The errors of `select`.
        """
        for name, tensor in self.select(have, group):
            yield name, array_of(tensor, self.bytes_of(tensor), writable=False)

    def sparse(self, have: str) -> Iterator[SparseTensor]:
        """The elements that change, in forward order; only what the update brings is compared.

        Args:
            have: Digest of the state that the elements are to be written over.

        Raises:
            ConflictError: It is not the one that the version begins at.
            UsageError: The version was committed or discarded, or a tensor's dtype has no array of
                its shape.
        """
        import numpy as np

        self._check()
        self._check_source(have)
        if self._committed or self._step is None:
            raise UsageError("the state before is gone", hint="Ask for sparse() before commit()")
        for name in self.changed:
            tensor = self._named[name]
            old, new = (
                array_of(tensor, part, writable=False)
                for part in (self._memory.bytes_of(tensor), self.bytes_of(tensor))
            )
            if new.size * new.itemsize != tensor.length or new.shape != tensor.shape:
                raise UsageError(f"{tensor.dtype} has no single elements", tensor=name)
            found = self._differences(tensor, old, new)
            kind = np.int32 if new.size <= np.iinfo(np.int32).max else np.int64
            indices = found.astype(kind, copy=False)
            yield SparseTensor(name, indices, new.reshape(-1)[found])

    def _differences(
        self, tensor: Tensor, old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Flat indices of the elements whose bits differ, within what the update brings."""
        import numpy as np

        assert self._step is not None
        # Bits: of floats, NaN would differ from itself and -0 not from 0.
        whole = new.itemsize in (1, 2, 4, 8)
        kind = np.dtype(f"u{new.itemsize}" if whole else "u1")
        size = new.itemsize if whole else 1
        bits = [a.reshape(-1).view(kind) for a in (old, new)]
        stride = max(1, _COMPARED // size)
        found = [np.empty(0, np.int64)]
        for start, end in _within(tensor, self._step.covered.get(tensor.file, [])):
            for at in range(start // size, -(-end // size), stride):
                stop = min(at + stride, -(-end // size))
                found.append(np.flatnonzero(bits[0][at:stop] != bits[1][at:stop]) + at)
        places = np.concatenate(found)
        return places if whole else np.unique(places // new.itemsize)

    def bytes_of(self, tensor: Tensor) -> memoryview:
        """The memory of a tensor with the version's values, writable; do not write to it.

        Raises:
            UsageError: It was discarded.
        """
        self._check()
        if self._step is None or self._committed or not self._brings(tensor):
            return self._memory.bytes_of(tensor)
        return self._step.spare[tensor.file][tensor.offset : tensor.offset + tensor.length]

    def commit(self, *, keep: bool = False) -> None:
        """Let the replica hold the version, as soon as nobody pins the state before.

        Args:
            keep: Keep what was there, so that `rollback` can take it back.

        Raises:
            UsageError: It was committed or discarded, or this thread pins the state before.
            Cancelled: The replica was cancelled.
        """
        self._check()
        if self._committed:
            raise UsageError(f"{self.target.id} was committed already")
        if self._step is not None:
            self.timings.commit = self._transfer.commit(keep=keep)
        else:
            self._transfer.take()
        self._committed = True

    def rollback(self) -> None:
        """Let the replica hold the state before again; until the next `Replica.fetch`.

        Raises:
            UsageError: It was not committed, or not with ``keep=True``, or there is a newer one.
        """
        self._check()
        if self._step is None or not self._committed:
            raise UsageError("there is nothing to roll back to")
        self._transfer.rollback()
        self._ended = True

    def discard(self) -> None:
        """Drop the version; the replica stays as it is. Any number of times, and after all else."""
        if self._step is not None and not self._committed:
            self._transfer.discard(self._step)
            self._ended = True

    def _check(self) -> None:
        held = self._step is None or self._committed or self._transfer.holds(self._step)
        if self._ended or not held:
            raise UsageError(
                f"{self.target.id} was discarded, or another version was fetched after it",
                hint="Use what fetch() returned last",
            )

    def begins_at(self, have: str | None) -> bool:
        """Whether the version begins at the state of this digest; never at an unknown one, None."""
        return self.source is not None and have == self.source.digest

    def _check_source(self, have: str) -> None:
        if not self.begins_at(have):
            at = "nothing" if self.source is None else f"{self.source.id} ({self.source.digest})"
            raise ConflictError(
                f"the weights are those of the state {have}, and the update to {self.target.id} "
                f"begins at {at}",
                hint="Give the engine all tensors: without have=",
            )

    def __repr__(self) -> str:
        count = f"{len(self._changed)} of {len(self._named)} tensors"
        return f"<StagedVersion {self.target.id}, {count}>"


def layer_of(name: str) -> str:
    """The group of a tensor's name for engines that fuse tensors within a layer.

    All tensors up to the first number in a name are one group (``model.layers.7``), experts
    included; other modules are groups of their own.
    """
    parts = name.split(".")
    for number, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: number + 1])
    return ".".join(parts[:-1])


def _place(tensor: Tensor) -> Span:
    return Span(tensor.file, tensor.offset, tensor.length)


def _within(tensor: Tensor, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of a tensor, by its own bytes, that sorted ranges of its region cover."""
    end = tensor.offset + tensor.length
    first = max(0, bisect_right(ranges, tensor.offset, key=lambda part: part[0]) - 1)
    for start, stop in ranges[first:]:
        if start >= end:
            break
        if stop > tensor.offset:
            yield max(start, tensor.offset) - tensor.offset, min(stop, end) - tensor.offset
