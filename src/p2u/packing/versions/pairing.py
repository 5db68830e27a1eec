"""Pair each tensor and file of a new version with the one of its parent that it comes from.

First by file and name, then by name, then by equal bytes, then by what llama.cpp would call it,
then the most alike of those with as many elements. Blocks and what has another name have to be
alike: rows in another order predict nothing. All of it looks at samples: a wrong guess costs bytes,
never correctness. Likeness is counted in signs, so that every machine finds the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from p2u.codec import core
from p2u.names.gguf import gguf_name
from p2u.package.layout import Tensor
from p2u.packing.chunking.floats import to_float32
from p2u.packing.chunking.stored import RUN, StoredModel
from p2u.types import BLOCKS, PROGRESSIVE

#: Parts of a sample that must agree, of 16: by chance it is half for signs, less for bytes.
ALIKE = 12
#: Among more candidates than this, these few are looked at as a whole, which agree best in so many
#: elements: experts are many. By chance hardly one of a million agrees in 12 of 16.
MANY, FEW, LEAST = 64, 4, 128
#: Bytes of a carried file that are compared at once.
_LOOK = 1 << 20


def fits(new: Tensor, old: Tensor) -> bool:
    """Whether a tensor can be coded as a change of another."""
    if new.dtype == old.dtype:
        return new.item == old.item
    return new.dtype in PROGRESSIVE and (old.dtype in PROGRESSIVE or old.dtype in BLOCKS)


def signs(t: Tensor, data: bytes) -> np.ndarray | None:
    """A float tensor's sample as -1, 0 and 1: below, at and above its median; else None."""
    if t.dtype in PROGRESSIVE:
        values = to_float32(data, t.dtype)
    elif t.dtype in BLOCKS:
        values = np.frombuffer(core.dequantise(t.dtype, data), np.float32)
    else:
        return None
    values = np.nan_to_num(values)
    middle = np.partition(values, len(values) // 2)[len(values) // 2]
    # float32 counts up to the size of a sample exactly, in any order.
    return np.asarray(np.sign(values - middle), np.float32)


def _agree(a: np.ndarray, b: np.ndarray) -> float:
    """The share of two samples' signs that agree, in 16ths."""
    return 8 * (float(a @ b) / len(a) + 1)


class Matcher:
    """Finds the pairs.

    Args:
        new: The new version.
        old: The parent.
    """

    def __init__(self, new: StoredModel, old: StoredModel) -> None:
        self._new, self._old = new, old
        self._pairs: dict[int, int] = {}
        self._prints: dict[tuple[bool, int], bytes] = {}
        self._samples: dict[tuple[bool, int], bytes] = {}
        self._tables: dict[int, np.ndarray] = {}  # by the first tensor of a kind

    def tensors(self) -> tuple[int | None, ...]:
        """For each new tensor the number of the old one, or None."""
        self._by_name()
        self._by_bytes()
        self._by_gguf_name()
        self._by_likeness()
        return tuple(self._pairs.get(n) for n in range(len(self._new.tensors)))

    def _sample(self, model: StoredModel, number: int) -> bytes:
        at = model is self._new, number
        if at not in self._samples:
            t = model.tensors[number]
            self._samples[at] = model.sample(t, model.elements(t))
        return self._samples[at]

    def _print(self, model: StoredModel, number: int) -> bytes:
        """A digest of one run in the middle: a model may have very many tensors."""
        at = model is self._new, number
        if at not in self._prints:
            t = model.tensors[number]
            count = model.elements(t)
            run = (0, count) if count <= RUN else (count // 2 // RUN * RUN, RUN)
            self._prints[at] = hashlib.sha256(model.read_elements(t, *run)).digest()
        return self._prints[at]

    def _by_name(self) -> None:
        names = [f.path for f in self._old.files]
        exact = {(names[t.file], t.name): n for n, t in enumerate(self._old.tensors)}
        times = Counter(t.name for t in self._old.tensors)
        alone = {t.name: n for n, t in enumerate(self._old.tensors) if times[t.name] == 1}
        for number, t in enumerate(self._new.tensors):
            path = self._new.files[t.file].path
            found = exact.get((path, t.name), alone.get(t.name))
            if found is None or not t.length or not fits(t, self._old.tensors[found]):
                continue
            if self._old.tensors[found].dtype not in BLOCKS or self._alike(number, found):
                self._pairs[number] = found

    def _by_bytes(self) -> None:
        """Whole tensors that moved to another name, even if theirs has something else now."""
        kinds: dict[tuple[str, int], list[int]] = {}
        for number, t in enumerate(self._old.tensors):
            kinds.setdefault((t.dtype, t.length), []).append(number)
        known: dict[tuple[str, int], dict[bytes, list[int]]] = {}
        for number, t in enumerate(self._new.tensors):
            kind = t.dtype, t.length
            own = self._pairs.get(number)
            if not t.length or kinds.get(kind, [own]) == [own]:
                continue
            if kind not in known:
                known[kind] = {}
                for other in kinds[kind]:
                    known[kind].setdefault(self._print(self._old, other), []).append(other)
            same = known[kind].get(self._print(self._new, number), [])
            if own in same:
                continue
            mine = self._sample(self._new, number) if same else b""
            found = next((n for n in same if self._sample(self._old, n) == mine), None)
            if found is not None:
                self._pairs[number] = found

    def _by_gguf_name(self) -> None:
        names = [gguf_name(t.name) for t in self._old.tensors]
        times = Counter(names)
        alone = {name: n for n, name in enumerate(names) if times[name] == 1}
        for number, t in enumerate(self._new.tensors):
            if number in self._pairs or not t.length:
                continue
            found = alone.get(gguf_name(t.name))
            if (
                found is not None
                and fits(t, self._old.tensors[found])
                and self._alike(number, found)
            ):
                self._pairs[number] = found

    def _alike(self, number: int, other: int) -> bool:
        """Whether a float tensor is like another, as far as both go."""
        new, old = self._new.tensors[number], self._old.tensors[other]
        count = min(self._new.elements(new), self._old.elements(old))
        if old.dtype in BLOCKS:
            count -= count % BLOCKS[old.dtype][0]
        if not count:
            return False
        own = signs(new, self._new.sample(new, count))
        theirs = signs(old, self._old.sample(old, count))
        return own is not None and theirs is not None and _agree(own, theirs) >= ALIKE

    def _by_likeness(self) -> None:
        """For new names: among all old tensors with as many elements, also those that are taken.

        A copy of a tensor may come and go: an output that is tied to the embedding, a layer twice.
        """
        kinds: dict[tuple[str, int], list[int]] = {}
        for number, t in enumerate(self._old.tensors):
            if t.length:
                kinds.setdefault((t.dtype, self._old.elements(t)), []).append(number)
        for number, t in enumerate(self._new.tensors):
            if number in self._pairs or not t.length:
                continue
            best: tuple[float, int] = (0.0, 0)
            for (_, elems), others in kinds.items():
                old = self._old.tensors[others[0]]
                if elems == self._new.elements(t) and fits(t, old):
                    likely = self._likely(number, others)
                    best = max(best, *self._likenesses(number, likely))
            likeness, negative = best
            if likeness >= ALIKE:
                self._pairs[number] = -negative

    def _likely(self, number: int, others: list[int]) -> Sequence[int]:
        """Of many old tensors of a kind the few that are most alike in a part of their samples."""
        if len(others) <= MANY:
            return others
        if others[0] not in self._tables:
            self._tables[others[0]] = np.stack([self._begin(self._old, n) for n in others])
        own, table = self._begin(self._new, number), self._tables[others[0]]
        agree = np.count_nonzero(table == own, axis=1)
        # A stable sort: the lower number first where they agree alike.
        return [others[n] for n in np.argsort(-agree, kind="stable")[:FEW]]

    def _begin(self, model: StoredModel, number: int) -> np.ndarray:
        """The beginning of a sample's signs, or of its bytes."""
        t = model.tensors[number]
        sample = model.sample(t, model.elements(t))
        found = signs(t, sample)
        bytes_ = np.frombuffer(sample, np.uint8)
        return (bytes_ if found is None else found.astype(np.int8))[:LEAST]

    def _signs(self, model: StoredModel, number: int) -> np.ndarray | None:
        return signs(model.tensors[number], self._sample(model, number))

    def _likenesses(self, number: int, others: Iterable[int]) -> Iterable[tuple[float, int]]:
        """The likeness of each old tensor, in 16ths of the sample, and minus its number."""
        own = self._signs(self._new, number)
        for other in others:
            if own is not None:
                theirs = self._signs(self._old, other)
                assert theirs is not None
                yield _agree(own, theirs), -other
            else:
                a, b = (
                    np.frombuffer(self._sample(model, n), np.uint8)
                    for model, n in ((self._new, number), (self._old, other))
                )
                yield 16 * float(np.count_nonzero(a == b)) / len(a), -other


def match_files(
    new: StoredModel, old: StoredModel, pairs: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """For each new file the number of the old one whose bytes are likely to be in it, or None."""
    paths = {file.path: number for number, file in enumerate(old.files)}
    sizes: dict[int, list[int]] = {}
    for number, file in enumerate(old.files):
        sizes.setdefault(file.size, []).append(number)
    votes: dict[int, Counter[int]] = {}
    for number, pair in enumerate(pairs):
        if pair is not None:
            t = new.tensors[number]
            votes.setdefault(t.file, Counter())[old.tensors[pair].file] += t.length
    out: list[int | None] = []
    for number, file in enumerate(new.files):
        found = paths.get(file.path)
        if found is None and number in votes:
            found = min(votes[number], key=lambda n, v=votes[number]: (-v[n], n))  # type: ignore[misc]
        elif found is None and file.size:
            same = (n for n in sizes.get(file.size, []) if _same_begin(new, number, old, n))
            found = next(same, None)
        out.append(found)
    return tuple(out)


def _same_begin(new: StoredModel, file: int, old: StoredModel, other: int) -> bool:
    size = min(_LOOK, new.files[file].size)
    return new.read(file, 0, size) == old.read(other, 0, size)
