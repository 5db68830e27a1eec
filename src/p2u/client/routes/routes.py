"""Choose the route of fewest bytes, and another one when an update proves broken."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2u.client.routes.stretches import Stretch
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

#: Updates that may prove broken before a package is given up: each costs requests.
MOST_BROKEN = 16


@dataclass(frozen=True, slots=True)
class Route:
    """Updates in order; ``resume`` is the first stretch where an ``--in-place`` goes on."""

    updates: tuple[Update, ...]
    resume: Stretch | None = None


class BrokenUpdateError(Exception):
    """An update is missing or wrong, and another attempt would fail too.

    Attributes:
        update: The update.
        error: The reason.
    """

    def __init__(self, update: Update, error: P2UError) -> None:
        super().__init__(str(error))
        self.update = update
        self.error = error


@contextmanager
def broken(update: Update) -> Iterator[None]:
    """Raise BrokenUpdateError for an error that the update is to blame for; others pass."""
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
    """Finds routes to one state.

    Args:
        manifest: The package.
        want: The state.
        updates: The updates to choose from; None for all.

    Attributes:
        warnings: One for each update that cannot be used.
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
        """Whether a state is the one wanted, or a better one of the same release."""
        if state is None or state.version != self.want.version:
            return False
        return leads_to(self._manifest.updates, self.want.id, state.id)

    def find(self, have: Iterable[State]) -> tuple[Update, ...]:
        """The cheapest route from any of these states, or from nothing.

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
        """Whether an update has not proved broken."""
        return update not in self._broken

    def find_sound(self, package: PackageReader, have: Iterable[State]) -> tuple[Update, ...]:
        """The cheapest route whose updates are all there, as far as a look beforehand shows.

        Updates are looked for only if the route leads across releases, or if one has proved broken
        before. Within one release every state is a good place to stop, and looking for all updates
        first would delay the first state.

        Raises:
            UsageError: There is none.
            BrokenUpdateError: One of the updates is not there.
        """
        route = self.find(have)
        if self._broken or any(map(self._manifest.crosses, route)):
            for update in route:
                with broken(update):
                    package.probe(update)
        return route

    def drop(self, update: Update, error: P2UError, have: Iterable[State]) -> None:
        """Avoid an update from now on.

        Raises:
            P2UError: The error itself, if there is no other route, or too many were broken.
        """
        self._broken.add(update)
        if len(self._broken) > MOST_BROKEN:
            raise error
        try:
            self.find(have)
        except UsageError:
            raise error from None
        text = (
            f"the update {update.source or 'nothing'} -> {update.target} cannot be used, taking "
            f"another route: {error}"
        )
        self.warnings.append(text)
        _log.warning("%s", text)
