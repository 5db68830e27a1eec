"""Following a package: from the state in memory to each newer one, with one commit each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from p2u.client.live.low_priority import LowPriority
from p2u.client.live.memory import ModelMemory
from p2u.client.live.staging.chained import ChainedUpdate, Ranges
from p2u.client.routes.live_routes import (
    LiveRoute,
    candidates,
    check_still,
    find_live_route,
    same_state,
)
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import FormatError, IntegrityError, NotFoundError, P2UError, UnsupportedError
from p2u.package.layout import ReleaseLayout
from p2u.package.manifest import Manifest, State

if TYPE_CHECKING:
    from p2u.client.live.live_transfer import LiveTransfer, Replace


class Follower:
    """Moves the memory of a course from version to version.

    A new version is gathered in memory of its own, its files are checked, and only then it takes
    the place of the old one. So whatever goes wrong before leaves the model as it is.

    Args:
        course: Which has its first way behind it.

    Attributes:
        trouble: What keeps the newest version of the present manifest away, for good.
    """

    def __init__(self, course: LiveTransfer) -> None:
        self.trouble: P2UError | None = None
        self._course = course
        self._mark = ""
        #: The manifest that `trouble` is about.
        self._judged: Manifest | None = None
        #: Digests of indices of updates that do not lead where they say, and why not.
        self._bad: dict[str, P2UError] = {}
        #: Digests of states known before the one here, so that an old manifest is recognised.
        self._past: set[str] = set()
        self._leg: LiveRoute | None = None
        self._number = 0
        self._link: ChainedUpdate | None = None
        self._covered: Ranges = {}
        #: Check the files after each update of a chain, not only at its end.
        self._careful = False

    def give_up(self, error: P2UError, manifest: Manifest) -> None:
        """Note what nothing but another manifest can mend."""
        self.trouble, self._judged = error, manifest

    def advance(self, replace: Replace, announce: Callable[[State], None]) -> None:
        """Look for a newer version, and go on to it if there is one.

        What is wrong with the package is left in `trouble`.

        Raises:
            StoreError, IntegrityError: Trying again later may help; what was fetched is kept.
            Cancelled: The course was cancelled.
            Whatever left the memory without a valid state.
        """
        package = self._course.package
        self._note(package.manifest)
        self._mark = package.renew(self._mark)
        if self.trouble is not None and package.manifest == self._judged:
            return
        self.trouble = None
        self._keep_leg(package.manifest)
        missing: set[str] = set()
        first: P2UError | None = None
        late: P2UError | None = None
        while True:
            try:
                leg = self._leg or self._find(package, missing)
            except UnsupportedError as error:
                if late is not None:
                    raise late from None
                self.give_up(first or self._reason(package.manifest) or error, package.manifest)
                return
            if leg is None:
                return
            try:
                self._go(package, leg, replace, announce)
            except (IntegrityError, FormatError, UnsupportedError, NotFoundError) as error:
                if self._course.spoilt is not None:
                    raise
                if not self._dismiss(leg, error, missing):
                    late = late or error
                first = first or error
                if package.stop.called:
                    self._course.reconnect()
                    package = self._course.package

    def _dismiss(self, leg: LiveRoute, error: P2UError, missing: set[str]) -> bool:
        """A leg that cannot be gone: note which update is to blame; whether it is so for good."""
        course = self._course
        here = leg.updates[self._number].index.sha256
        for_good = isinstance(error, UnsupportedError) or course.hopeless
        if for_good:
            if len(leg.updates) > 1 and isinstance(error, IntegrityError) and not self._careful:
                self._careful = True  # once more, to see which of them it is
            else:
                self._bad[here] = error
        else:
            # A blob that is damaged or not there: it may be mended without a new manifest.
            missing.add(here)
        course.hopeless = False
        self._drop()
        return for_good

    def _reason(self, manifest: Manifest) -> P2UError | None:
        """What was wrong with an update that could not be used."""
        found = [u.index.sha256 for u in manifest.updates if u.index.sha256 in self._bad]
        return self._bad[found[-1]] if found else None

    def _note(self, manifest: Manifest) -> None:
        """Remember which states come before the one here."""
        have = self._course.position
        assert have is not None
        digests = [state.digest for state in manifest.states]
        if have.digest in digests:
            self._past |= set(digests[: digests.index(have.digest)])

    def _find(self, package: PackageReader, missing: set[str]) -> LiveRoute | None:
        """The way to the newest version that can be reached; None if it is here.

        Raises:
            UnsupportedError: There are newer ones, but no way to any of them.
        """
        course = self._course
        have, manifest = course.position, package.manifest
        assert have is not None
        wanted = candidates(manifest, have, course.plan.until)
        if wanted and same_state(manifest, have) is None and wanted[0].digest in self._past:
            return None  # a cache on the way has given an old manifest
        why: UnsupportedError | None = None
        for want in wanted:
            try:
                files = course.need_files()
                mine = ReleaseLayout(files.release, files.layout)
                leg = find_live_route(package, mine, have, want, self._bad.keys() | missing)
            except UnsupportedError as error:
                why = why or error
                continue
            self._start(leg, package.meter.done)
            return leg
        if why is not None:
            raise why
        return None

    def _start(self, leg: LiveRoute, done: int) -> None:
        course, label = self._course, leg.target.label
        self._leg = leg
        course.target, course.staging = label, "copy"
        course.marks = ((label, done + leg.cost),)
        course.add_states([*leg.passed, leg.target.id])

    def _keep_leg(self, manifest: Manifest) -> None:
        """Go on with the leg that is under way unless its updates have gone."""
        if self._leg is not None and not set(self._leg.updates) <= set(manifest.updates):
            self._drop()

    def _drop(self) -> None:
        self._leg = self._link = None
        self._number, self._covered = 0, {}
        self._course.need_files().drop_spare()

    def _go(
        self,
        package: PackageReader,
        leg: LiveRoute,
        replace: Replace,
        announce: Callable[[State], None],
    ) -> None:
        course, files = self._course, self._course.need_files()
        files.manifest = package.manifest
        while True:
            link = self._link or self._begin(package, files, leg)
            self._link = link
            update = leg.updates[self._number]
            following = None
            for later in leg.updates[self._number + 1 : self._number + 2]:
                package.look_ahead(later)
                following = package.following(later)
            package.fetcher.run(
                update.blobs,
                tuple(link.missing.values()),
                LowPriority(lambda chunk, payload, link=link: course.apply(link, chunk, payload)),
                following=following,
                patient=True,
            )
            with course.judged(spoils=False):
                link.prepare()
            if self._number + 1 == len(leg.updates):
                break
            self._covered = link.covered
            self._link = None
            self._number += 1
        self._commit(package, files, leg, link, replace)
        announce(leg.target)

    def _begin(self, package: PackageReader, files: ModelMemory, leg: LiveRoute) -> ChainedUpdate:
        update = leg.updates[self._number]
        check_still(package, update)
        return ChainedUpdate(
            files,
            update,
            package.index(update).chunks,
            self._course.plan.check,
            self._course.plan.tools,
            source=leg.source,
            before=self._covered,
            checked=self._careful or self._number + 1 == len(leg.updates),
        )

    def _commit(
        self,
        package: PackageReader,
        files: ModelMemory,
        leg: LiveRoute,
        link: ChainedUpdate,
        replace: Replace,
    ) -> None:
        course = self._course
        manifest = package.manifest

        def commit() -> None:
            link.commit()
            files.release = manifest.release(leg.target)

        with course.gate.commit(package.stop.check) as waited, course.judged(spoils=True):
            replace(leg.target, commit, waited)
        course.position = leg.target
        self._note(manifest)
        self._careful = False
        self._drop()
