"""Open the package of a live model, and open it again for each further attempt."""

from __future__ import annotations

import os

from p2u.client.transfer.control import Stop
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.stores import Store
from p2u.stores.forwarding import KeepOpen


class Connection:
    """Opens a package, again after each failure; what was read of it is kept.

    Args:
        source: Path or URL of the package, or an open store.
        options: How bytes are fetched.
        stop: Ends the present attempt, and all later ones.
        early: This source, open already, for the first attempt.

    Attributes:
        package: The package, open or not.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Store,
        options: TransferOptions,
        stop: Stop,
        early: Store | None = None,
    ) -> None:
        self._source = KeepOpen(source) if isinstance(source, Store) else source
        self._options = options
        self._stop = stop
        #: Ends one attempt.
        self._attempt = Stop()
        stop.on_call(lambda: self._attempt.call())
        self.package = self._open(None, early)

    def _open(self, known: PackageReader | None, early: Store | None = None) -> PackageReader:
        self._attempt = Stop()
        if self._stop.called:
            self._attempt.call()
        source = early or self._source
        return PackageReader(source, self._options, stop=self._attempt, known=known)

    def renew(self) -> None:
        """Open the package if it is closed: a failed run has ended all that it does."""
        if self.package.stop.called:
            self.package.close()
            self.package = self._open(self.package)

    def close(self) -> None:
        """End the present attempt: the next one needs another connection."""
        self.package.stop.call()
        self.package.close()

    def end(self) -> None:
        """Close the store for good, if it is the user's."""
        if isinstance(self._source, KeepOpen):
            self._source.end()
