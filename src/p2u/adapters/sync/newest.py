"""Ask a package for its newest version, by its manifest alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import NotFoundError, UsageError
from p2u.package.manifest import Manifest

#: Seconds between two looks for a version that is not published yet, which double up to the last.
_FIRST_LOOK, _LAST_LOOK = 0.02, 1.0


class NewestVersion:
    """Polls a package's manifest; opened at the first question. One thread at a time.

    Args:
        source: Path or URL of the package.
        options: How it is read.
    """

    def __init__(self, source: str | os.PathLike[str], options: TransferOptions) -> None:
        self._source, self._options = source, options
        self._package: PackageReader | None = None
        self._mark = ""

    def version(self) -> str | None:
        """Name of the newest version; None if there is no package.

        Raises:
            P2UError: It cannot be read.
        """
        return _newest_of(self._poll())

    def wait(self, version: str, timeout: float | None) -> None:
        """Return when the package has a version.

        Args:
            version: Its name, or the id of a state.
            timeout: Most seconds; None: do not wait.

        Raises:
            UsageError: It does not have it by then.
            P2UError: It cannot be read.
        """

        def is_there(manifest: Manifest | None) -> bool:
            states = () if manifest is None else manifest.states
            return any(version in (state.version, state.id) for state in states)

        if not self._until(is_there, timeout):
            raise UsageError(
                f"the package has no version {version!r}",
                file=os.fspath(self._source),
                hint="Wait for its publication: timeout=",
            )

    def wait_after(self, version: str | None, timeout: float) -> str:
        """Return the name of the newest version when it is another one than this.

        Args:
            version: The newest one so far; None: there was no package.
            timeout: Most seconds.

        Raises:
            TimeoutError: None was published by then.
            P2UError: It cannot be read.
        """
        found = version

        def is_newer(manifest: Manifest | None) -> bool:
            nonlocal found
            found = _newest_of(manifest)
            return found != version

        if not self._until(is_newer, timeout) or found is None:
            raise TimeoutError(
                f"{os.fspath(self._source)}: no version after {version or 'nothing'} in {timeout} s"
            )
        return found

    def _until(self, test: Callable[[Manifest | None], bool], timeout: float | None) -> bool:
        """Poll until a manifest passes a test; returns whether one did by then."""
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_LOOK
        while not test(self._poll()):
            if end is None or time.monotonic() + pause > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)
        return True

    def _poll(self) -> Manifest | None:
        try:
            if self._package is None:
                self._package = PackageReader(self._source, self._options)
            self._mark = self._package.renew(self._mark)
        except NotFoundError:
            self.close()
            return None
        except BaseException:
            self.close()
            raise
        return self._package.manifest

    def fork(self) -> None:
        """Leave what is open to the parent."""
        self._package, self._mark = None, ""

    def close(self) -> None:
        """Close it; the next question opens it again."""
        package, self._package, self._mark = self._package, None, ""
        if package is not None:
            package.close()


def _newest_of(manifest: Manifest | None) -> str | None:
    """Name of the newest version of a package, if there is one."""
    return None if manifest is None else manifest.releases[-1].version
