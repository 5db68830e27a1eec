"""``p2u.plan``: the states of a package, and the times at which a line would have them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from p2u.client.routes.routes import Routes
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.errors import UsageError
from p2u.package.manifest import Manifest, Release, State, Update
from p2u.stores import Store
from p2u.stores.backoff import Retry
from p2u.stores.throttle import parse_rate

#: Seconds and bytes after which a line is measured well enough.
MEASURE_SECONDS, MEASURE_BYTES = 1.0, 8 << 20
#: Most older versions that are listed.
MOST_VERSIONS = 10


@dataclass(frozen=True, slots=True)
class PlannedState:
    """A state of the newest version, for a client that has nothing.

    Attributes:
        label: Of the state.
        bytes: To fetch until it is complete, everything counted.
        here: Of these, bytes that the cache has.
        seconds: Until it is complete, at the rate of the plan; decoding takes place meanwhile.
        bits: Bits per weight.
        snr_db: Signal-to-noise ratio of its weights in dB; None if exact.
    """

    label: str
    bytes: int
    here: int
    seconds: float
    bits: float
    snr_db: float | None


@dataclass(frozen=True, slots=True)
class PlannedVersion:
    """What a client that has an older version fetches for the newest one's last state.

    Attributes:
        version: The older version.
        bytes: To fetch.
        seconds: At the rate of the plan.
    """

    version: str
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a package offers.

    Attributes:
        url: Of the package.
        name: Of the package.
        version: The newest one.
        files: How many files the model has.
        model_bytes: Of these files: what a live model takes in memory, and a folder on the disk.
        most_bytes: On the disk while a folder changes from one state to the next, but for
            ``in_place``.
        rate: Bytes per second.
        measured: Whether the rate was measured now, or was given.
        states: Of the newest version, coarse to fine.
        versions: Older ones, the newest first.
    """

    url: str
    name: str
    version: str
    files: int
    model_bytes: int
    most_bytes: int
    rate: float
    measured: bool
    states: tuple[PlannedState, ...]
    versions: tuple[PlannedVersion, ...]


def plan(
    source: str | os.PathLike[str] | Store,
    *,
    rate: float | str | None = None,
    retry: Retry | None = None,
    cache: bool | str | os.PathLike[str] = True,
) -> FetchPlan:
    """Say what a package offers and when a line would have it. Only small files are fetched.

    Args:
        source: Path or URL of a package, or an open store (which is closed then).
        rate: Bytes per second, a number or text such as ``"20Mbit/s"``. None: the line is measured
            with the first bytes of the base, for a second at most.
        retry: When to try again after failures of the store.
        cache: Where to look for what is here already; nothing is added but small files.

    Raises:
        UsageError: ``rate`` is not valid.
        The errors of `pull`.
    """
    given = parse_rate(rate) if isinstance(rate, str) else rate
    if given is not None and not given > 0:
        raise UsageError(f"rate must be above 0, not {rate}")
    with PackageReader(source, TransferOptions(retry=retry, cache=cache)) as package:
        manifest = package.manifest
        release = manifest.latest
        routes = {state.id: _route(manifest, state, ()) for state in release.states}
        speed = given
        if speed is None:
            speed = _measure(package, next(iter(routes.values())))
        model = sum(file.size for file in release.files)
        return FetchPlan(
            url=package.url, name=manifest.name, version=release.version,
            files=len(release.files), model_bytes=model, most_bytes=2 * model,
            rate=speed, measured=given is None,
            states=tuple(_planned(package, s, routes[s.id], speed) for s in release.states),
            versions=tuple(_older(manifest, release, speed)),
        )  # fmt: skip


def _route(manifest: Manifest, want: State, have: Sequence[State]) -> tuple[Update, ...]:
    return Routes(manifest, want).find(have)


def _planned(
    package: PackageReader, state: State, route: tuple[Update, ...], rate: float
) -> PlannedState:
    size = sum(map(package.manifest.cost, route))
    here = sum(map(package.cached_bytes, route))
    return PlannedState(
        state.label, size, here, max(0, size - here) / rate, state.bits, state.snr_db
    )


def _older(manifest: Manifest, release: Release, rate: float) -> list[PlannedVersion]:
    found: list[PlannedVersion] = []
    for older in reversed(manifest.releases):
        if older is release or len(found) == MOST_VERSIONS:
            continue
        route = _route(manifest, release.states[-1], older.states[-1:])
        size = sum(map(manifest.cost, route))
        found.append(PlannedVersion(older.version, size, size / rate))
    return found


def _measure(package: PackageReader, route: Sequence[Update]) -> float:
    """Bytes per second of the line, by bytes of the first update, which are dropped again."""
    blob, store = route[0].blobs[0], package.store
    if package.cached is not None:
        if package.cached.cache.offline:
            raise UsageError("the network is forbidden, so the line has no rate", hint="Give one")
        store = package.cached.store
    begin = time.monotonic()
    count = 0
    with closing(store.stream(blob.key, 0, min(blob.size, MEASURE_BYTES))) as pieces:
        for piece in pieces:
            count += len(piece)
            if time.monotonic() - begin > MEASURE_SECONDS:
                break
    return count / max(time.monotonic() - begin, 1e-6)
