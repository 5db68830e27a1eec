"""The states on the route of a live model: their order and labels, and finding one by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

#: Where on a route each state is reached: ``(label, bytes)``.
Marks = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class RouteStates:
    """The states that a live model reaches one after the other, as far as they are known.

    Attributes:
        labels: Label of each state by its id, in order; empty until the manifest is here.
        skipped: Ids of states before them that nobody can use, since their tensors are others.
        first: Ids of the states on the first route, from nothing to the state wanted.
        wanted: Id of the state wanted; None until it is known.
        marks: Of the route that is under way; see `PackageReader.marks`.
        target: Label of the state that is being fetched.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    wanted: str | None = None
    marks: Marks = ()
    target: str | None = None

    def begin(self, ids: Sequence[str], marks: Marks, skipped: Sequence[str] = ()) -> RouteStates:
        """With the states of the first route."""
        known = self._with(ids)
        return replace(known, skipped=tuple(skipped), first=tuple(ids), wanted=ids[-1], marks=marks)

    def shorten(self, count: int) -> RouteStates:
        """With a first route of as many states as have been reached."""
        return replace(self, first=self.first[:count])

    def fetch(self, target: str) -> RouteStates:
        """With another state of the same route as the target."""
        return replace(self, target=target)

    def follow(self, ids: Sequence[str], end: int) -> RouteStates:
        """With later states, the last of which is reached ``end`` bytes after the beginning."""
        target = _label(ids[-1])
        return replace(self._with(ids), marks=((target, end),), target=target)

    def _with(self, ids: Sequence[str]) -> RouteStates:
        kept = {state: label for state, label in self.labels.items() if state not in ids}
        return replace(self, labels={**kept, **{state: _label(state) for state in ids}})

    def place(self, name: str) -> int | None:
        """The place of the first state that is as good as a named one; None if there is none.

        Args:
            name: An id, the name of a version (its last state), or a label: on the first route the
                last state of that label, since the route may come by older versions; else the
                first one.
        """
        ids = list(self.labels)
        places = [n for n, (id_, label) in enumerate(self.labels.items()) if name in (id_, label)]
        own = [place for place in places if ids[place] in self.first]
        if places:
            return own[-1] if own else places[0]
        versions = [_version(id_) for id_ in ids]
        if name in versions:
            return len(versions) - 1 - versions[::-1].index(name)
        # The first state that can be used is better.
        better = any(name in (id_, _label(id_), _version(id_)) for id_ in self.skipped)
        return 0 if better else None

    def one_version(self) -> bool:
        """Whether all states are of the same version, so that labels are enough to name them."""
        return len({_version(id_) for id_ in self.labels}) < 2


def _label(id_: str) -> str:
    return id_.partition("@")[2]


def _version(id_: str) -> str:
    return id_.partition("@")[0]
