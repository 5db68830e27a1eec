"""The way to a state: chosen by its bytes, and again without the updates that turn out broken."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from p2u._client.package import Package
from p2u.errors import (
    FormatError,
    IntegrityError,
    P2UError,
    StoreError,
    UnsupportedError,
    UsageError,
)
from p2u.manifest import Manifest, State, Update
from p2u.plan import find_path, leads_to

_log = logging.getLogger("p2u")


@dataclass(frozen=True, slots=True)
class Way:
    """Updates to make; ``resume`` if the first goes on with an interrupted ``--in-place``."""

    updates: tuple[Update, ...]
    resume: bool = False


def is_broken(error: BaseException) -> bool:
    """Whether an error says that an update is missing or wrong, and trying again does not help."""
    if isinstance(error, StoreError):
        return not error.retryable
    return isinstance(error, IntegrityError | FormatError | UnsupportedError)


class Ways:
    """Plans ways to one state.

    Args:
        manifest: The package.
        want: The state.
        updates: Those that may be used; None for all.

    Attributes:
        warnings: What was said about updates that cannot be used.
    """

    def __init__(
        self, manifest: Manifest, want: State, updates: Iterable[Update] | None = None
    ) -> None:
        self.want = want
        self.warnings: list[str] = []
        self._manifest = manifest
        self._updates = manifest.updates if updates is None else tuple(updates)
        self._broken: set[Update] = set()

    def satisfied(self, state: State | None) -> bool:
        """Whether a state will do: it is the one wanted, or a better one of its release."""
        if state is None or state.version != self.want.version:
            return False
        return leads_to(self._manifest.updates, self.want.id, state.id)

    def find(self, have: Iterable[State]) -> tuple[Update, ...]:
        """The cheapest way from any of these states, or from nothing.

        Raises:
            UsageError: There is none.
        """
        return find_path(
            self._updates,
            None,
            self.want.id,
            also=[state.id for state in have],
            cost=self._manifest.cost,
            start=lambda state: self._manifest.release(state).layout.size,
            without=self._broken,
        )

    def usable(self, update: Update) -> bool:
        """Whether nothing is known against an update."""
        return update not in self._broken

    def find_sound(self, package: Package, have: Iterable[State]) -> tuple[Update, ...]:
        """The cheapest way whose updates are all there, as far as can be seen beforehand.

        Within one release each state is as good a place to stop as any, and looking at all updates
        first would keep the first state waiting: they are only looked at between releases, and
        after one was found broken.

        Raises:
            P2UError: There is none; what is wrong with the last one.
        """
        have = tuple(have)
        while True:
            way = self.find(have)
            if not self._broken and not any(map(self._manifest.crosses, way)):
                return way
            for update in way:
                try:
                    package.probe(update)
                except P2UError as error:
                    self.drop(update, error, have)
                    break
            else:
                return way

    def drop(self, update: Update, error: P2UError, have: Iterable[State]) -> None:
        """Do without an update from now on.

        Raises:
            P2UError: The error itself, if it does not speak against the update or there is no other
                way.
        """
        if not is_broken(error):
            raise error
        self._broken.add(update)
        try:
            self.find(have)
        except UsageError:
            raise error from None
        text = (
            f"the update {update.source or 'nothing'} -> {update.target} cannot be used, going "
            f"another way: {error}"
        )
        self.warnings.append(text)
        _log.warning("%s", text)
