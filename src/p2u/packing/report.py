"""Reports of packing, publishing and gc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from p2u.package.manifest import Manifest


@dataclass(frozen=True, slots=True)
class PackProgress:
    """The progress of packing.

    Attributes:
        phase: ``"measure"``, ``"encode"``, ``"verify"`` or ``"publish"``;
            ``"upload"``, whose bytes are the package's, where that is at a URL.
        done: Bytes of the source that this phase is through with.
        total: Bytes of the source that it has to do.
    """

    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class StateRow:
    """One state of the package.

    Attributes:
        label: ``"base"``.
        bytes: What there is to fetch to come here from nothing; None where that is not possible.
        fraction: ``bytes`` as a fraction of the original's bytes.
        bits: Bits per weight of the progressive tensors.
        snr_db: Signal-to-noise ratio of the progressive tensors; None if exact.
    """

    label: str
    bytes: int | None
    fraction: float | None
    bits: float
    snr_db: float | None


@dataclass(frozen=True, slots=True)
class PackReport:
    """The result of `pack` or `publish`.

    Attributes:
        manifest: The package's manifest, as written.
        version: Which of its versions was packed.
        source_bytes: Size of all files of the model.
        states: Those of the version, to exact.
        offsets: How coarse each tensor with levels is in the base: its step is
            ``2 ** (offset / 64)`` times the root mean square of a row, about.
        notes: What was worth saying: tensors without a counterpart in the parent.
        left_out: What of the model's folder is not in the package, a folder with ``/`` behind it.
        unchanged: Nothing was published: the version, the newest one, holds the same files.
    """

    manifest: Manifest
    version: str
    source_bytes: int
    states: tuple[StateRow, ...]
    offsets: dict[str, int] = field(repr=False)
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unchanged: bool = False


def make_report(
    manifest: Manifest,
    version: str,
    total: int,
    offsets: dict[str, int],
    notes: Sequence[str] = (),
) -> PackReport:
    """The report on one version of a package; see `PackReport`."""
    rows = tuple(
        StateRow(
            s.label, s.bytes, s.bytes / total if s.bytes is not None else None, s.bits, s.snr_db
        )
        for s in manifest.states
        if s.version == version
    )
    return PackReport(manifest, version, total, rows, offsets, tuple(notes))


@dataclass(frozen=True, slots=True)
class GcReport:
    """The versions and files that `gc` removed, or would remove.

    Attributes:
        kept: Versions that stay, in order.
        dropped: Versions that are gone.
        updates: Number of updates that are gone.
        files: Number of files that are not needed any more.
        bytes: Their sizes.
    """

    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    updates: int
    files: int
    bytes: int
