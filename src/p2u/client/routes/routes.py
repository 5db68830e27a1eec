"""The way to a state: chosen by its bytes, and again without the updates that turn out broken."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import (
    FormatError,
    IntegrityError,
    P2UError,
    StoreError,
    UnsupportedError,
    UsageError,
)
from p2u.package.graph import find_path, leads_to
from p2u.package.manifest import Manifest, State, Update

_log = logging.getLogger("p2u")


@dataclass(frozen=True, slots=True)
class Route:
    """Updates to make; ``resume`` if the first goes on with an interrupted ``--in-place``."""

    updates: tuple[Update, ...]
    resume: bool = False


class BrokenUpdateError(Exception):
    """An update is missing or wrong, and trying again does not help.

    Attributes:
        update: The update.
        error: What is wrong.
    """

    def __init__(self, update: Update, error: P2UError) -> None:
        super().__init__(str(error))
        self.update = update
        self.error = error


@contextmanager
def broken(update: Update) -> Iterator[None]:
    """Turn errors that speak against an update into BrokenError; others pass."""
    try:
        yield
    except P2UError as error:
        if isinstance(error, StoreError):
            final = not error.retryable
        else:
            final = isinstance(error, IntegrityError | FormatError | UnsupportedError)
        if not final:
            raise
        raise BrokenUpdateError(update, error) from error


class Routes:
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

    def find_sound(self, package: PackageReader, have: Iterable[State]) -> tuple[Update, ...]:
        """The cheapest way whose updates are all there, as far as can be seen beforehand.

        Within one release each state is as good a place to stop as any, and looking at all updates
        first would keep the first state waiting: they are only looked at between releases, and
        after one was found broken.

        Raises:
            UsageError: There is none.
            BrokenError: One of the updates is not there.
        """
        way = self.find(have)
        if self._broken or any(map(self._manifest.crosses, way)):
            for update in way:
                with broken(update):
                    package.probe(update)
        return way

    def drop(self, update: Update, error: P2UError, have: Iterable[State]) -> None:
        """Do without an update from now on.

        Raises:
            P2UError: The error itself, if there is no other way.
        """
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
