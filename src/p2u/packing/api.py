"""``p2u.pack``, ``p2u.publish`` and ``p2u.gc``: check the arguments, and do it.

Scan the model, choose the base's step on a sample, then one pass over the chunks: encode, decode
and compare with the source, hash, write to blobs; publish by rename. Memory holds a few chunks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.disk.errors import disk_errors
from p2u.errors import UsageError
from p2u.packing.allocation.damage import parse_damage, quantise
from p2u.packing.recipe import LEVELS, Recipe
from p2u.packing.report import PackProgress, PackReport, StateRow
from p2u.packing.settings import BLOB_SIZE, LOCAL, make_settings
from p2u.stores.schemes import scheme_of

if TYPE_CHECKING:
    from p2u.packing.report import GcReport

__all__ = ["PackProgress", "PackReport", "StateRow", "gc", "pack", "publish"]

#: Versions from one with a base of its own to the next.
ANCHOR_EVERY = 50
_log = logging.getLogger("p2u.publish")
#: Seconds.
MOST_GRACE = 1e9


def pack(
    src: str | Path,
    dst: str | Path,
    *,
    calibration: str | Path | None = None,
    thrift: float = 0.2,
    bits: float | None = None,
    budget: int | None = None,
    base_ratio: float | None = None,
    tensor_bits: Mapping[str, float] | None = None,
    keep: Sequence[str] = (),
    sensitivity: str | Path | Mapping[str, Any] | None = None,
    levels: Sequence[str] = LEVELS,
    jobs: int | None = None,
    blob_size: int = BLOB_SIZE,
    name: str | None = None,
    parent: str | Path | None = None,
    adopt: str | Path | None = None,
    version: str | None = None,
    also_base: bool | None = None,
    replace: bool = False,
    force: bool = False,
    engine: str = LOCAL,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: Callable[[PackProgress], None] | None = None,
) -> PackReport:
    """Pack a model. The package appears when it is complete and verified, or not at all.

    With a parent, the model is a version more of the package, as an update from the parent's bytes.
    The package is then locked, its files stay, and its manifest is replaced last.

    Args:
        src: A model file (``.safetensors``, ``.onnx``, ``.gguf``), a model directory, or the URL of
            one in a store.
        dst: The package's directory: new, empty, or with a parent or a file to adopt a package,
            which gets another version.
        calibration: The file that `p2u.torch.calibrate` wrote: the base's errors then make good
            each other at the outputs of the layers, at a price for the exact state.
        thrift: With a calibration, the dial between the two: a weight leaves its own bin only for
            a value more than this part of a step beyond the bin's edge; 0 gives the best base.
        bits: Average bits per weight of the base, about; 1 to 6, by default 3.5.
        budget: Instead: most bytes of the base state, all that there is to fetch for it.
        base_ratio: Instead: the same as a fraction of the model's bytes.
        tensor_bits: Bits per weight of the tensors whose names match a glob; the last one that
            matches counts, and `bits` is the average of the other tensors.
        keep: Globs of tensors that are exact from the base on.
        sensitivity: What `p2u.torch.sensitivity` measured, or the file that it wrote.
        levels: Labels of the states: ``base``, then any of ``5bit`` to ``19bit`` with growing
            numbers, then ``exact``. Each is an update from the one before. The step of ``Nbit`` is
            the base's, halved ``N - 4`` times, at most 8 times from one level to the next.
        jobs: Threads; all processors by default. The package does not depend on it.
        blob_size: Most bytes per blob; a chunk that is larger still gets a blob of its own.
        name: The model's name; that of ``src`` by default.
        parent: What the version is an update from: a package, with ``@`` and a state behind it
            unless it is its newest exact one; or a model directory or file. Bytes that no version
            of the package has make a foreign version of it, which is known but not delivered.
        adopt: A file of this model that many have already, quantised by somebody else (GGUF) or of
            a lower precision: an update from there to the exact model. If the package has this
            model, it gets the update to it, else a version with a base of its own, too.
        version: The version's name; by default ``v1``, or the next number.
        also_base: Whether the version gets a base and refinements of its own, too, for those who
            have nothing. By default it does unless it has a parent.
        replace: Whether a package in ``dst`` gives way, with all its versions.
        force: Pack also what was pulled to a state before the exact one, and as a version what has
            hardly anything from its parent, or nothing new.
        engine: ``local``, or ``ray`` for processes on one machine or many: docs/scale.md. The
            package does not depend on it.
        workers: Of the engine ray: how many; all processors of the cluster by default.
        ray_address: Of the engine ray: a cluster's; by default it starts one on this machine.
        progress: Called now and then from the calling thread; what it raises ends packing.

    Raises:
        UsageError: An argument is not valid, ``dst`` holds a package or something else, no base can
            be as small as the budget, nothing in the file to adopt is like anything in the model,
            or ``force`` is needed.
        FormatError: ``src`` is not a model, or its file names cannot be kept.
        DiskError: Something could not be read or written.
        IntegrityError: ``src`` changed meanwhile, or what was encoded does not decode to it.
        BusyError: Another process publishes to the package.
        ConflictError: Somebody published to it without a lock.
        UnsupportedError, WorkerError: The engine's library is not installed; it cannot start, or
            its processes died again and again.
    """
    if parent is not None and adopt is not None:
        raise UsageError(
            "a parent and a file to adopt were both given", hint="Make one version of each"
        )
    if scheme_of(dst) is not None:
        raise UsageError(
            "a package is packed to a folder", file=os.fspath(dst), hint="See p2u publish, p2u push"
        )
    recipe = Recipe(
        None if bits is None else float(bits),
        budget,
        base_ratio,
        tuple((tensor_bits or {}).items()),
        tuple(keep),
        _damage(sensitivity),
    )
    settings = make_settings(
        recipe,
        levels=levels,
        jobs=jobs,
        blob_size=blob_size,
        name=name,
        progress=progress,
        calibration=calibration,
        thrift=thrift,
        version=version,
        replace=replace,
        force=force,
        engine=engine,
        workers=workers,
        ray_address=ray_address,
    )
    source, target = os.fspath(src), os.fspath(dst)
    wanted = parent if adopt is None else adopt
    if wanted is not None and replace:
        raise UsageError(
            "a version is added to a package, or replaces it", hint="Leave out --replace"
        )
    if wanted is not None:
        from p2u.packing.publish import add_version
        from p2u.packing.versions.add_version import VersionRequest

        based = adopt is not None if also_base is None else also_base
        request = VersionRequest(version, based, adopt=adopt is not None)
        return add_version(source, target, settings, os.fspath(wanted), request)
    if also_base is False:
        raise UsageError("the version has neither a base nor a parent", hint="Name a parent")
    from p2u.packing.packer import pack_first  # loads the core

    return pack_first(source, target, settings)


def publish(
    src: str | Path,
    package: str | Path,
    *,
    version: str | None = None,
    parent: str | Path | None = None,
    expect: str | None = None,
    anchor: bool | None = None,
    anchor_every: int = ANCHOR_EVERY,
    fold: float | None = None,
    bits: float | None = None,
    levels: Sequence[str] = LEVELS,
    jobs: int | None = None,
    blob_size: int = BLOB_SIZE,
    name: str | None = None,
    force: bool = False,
    engine: str = LOCAL,
    workers: int | None = None,
    ray_address: str | None = None,
    progress: Callable[[PackProgress], None] | None = None,
) -> PackReport:
    """Publish a model: as a new package, or as the next version of one.

    The next version is an update from the newest one; if that has the same files, nothing is
    published, and the report says so. Whoever reads the package sees the old or the
    new one at any moment, and the files of old versions stay until `gc`.

    Args:
        src: The model; see `pack`.
        package: The package; made if there is none.
        version: The version's name; by default the next number.
        parent: A directory that holds the newest version, if there is one: saves decoding it from
            the package. If it holds something else, it is not used.
        expect: Id of the state that has to be the newest one, as far as the caller knows.
        anchor: Whether the version gets a base and refinements of its own; None to go by
            ``anchor_every``.
        anchor_every: It does if the last version with a base is this many back, or the updates
            since then are larger than the base and refinements were.
        fold: Also make updates from versions two, four, eight ... back, and keep those that have at
            most this part of the bytes of the chain; None for none.
        bits: See `pack`.
        levels: See `pack`.
        jobs: See `pack`.
        blob_size: See `pack`.
        name: See `pack`; of a new package only.
        force: Publish also what was pulled to a state before the exact one, what has hardly
            anything from the newest version, and the same files once more.
        engine: See `pack`.
        workers: See `pack`.
        ray_address: See `pack`.
        progress: See `pack`.

    Raises:
        BusyError: Another process publishes to the package.
        ConflictError: The newest state is not the one expected, or somebody published without a
            lock. Nothing was changed.
        UsageError, FormatError, DiskError, IntegrityError: See `pack`.
    """
    if anchor_every < 1:
        raise UsageError(f"anchor_every is {anchor_every}", hint="Use 1 or more")
    if fold is not None and not 0 < fold <= 1:
        raise UsageError(f"fold is {fold:g}", hint="Choose from 0 to 1")
    settings = make_settings(
        Recipe(None if bits is None else float(bits)),
        levels=levels,
        jobs=jobs,
        blob_size=blob_size,
        name=name,
        progress=progress,
        version=version,
        force=force,
        engine=engine,
        workers=workers,
        ray_address=ray_address,
    )
    from p2u.packing.publish import AnchorPolicy, publish_next
    from p2u.packing.versions.add_version import VersionRequest

    report = publish_next(
        os.fspath(src),
        os.fspath(package),
        settings,
        AnchorPolicy(anchor, anchor_every),
        VersionRequest(version, fresh=True, fold=fold),
        None if parent is None else os.fspath(parent),
        expect,
    )
    if not report.unchanged:
        fields = {"event": "published", "package": os.fspath(package), "version": report.version}
        _log.info("%s: %s is published", package, report.version, extra={"p2u": fields})
    return report


def gc(
    package: str | Path,
    *,
    keep: int = 5,
    anchors: int | None = None,
    grace: float = 0.0,
    dry_run: bool = False,
) -> GcReport:
    """Drop old versions of a package, and the files that only they need.

    The newest versions stay, with all that leads to them from nothing, and so do older ones that
    have a base of their own. The new manifest is written first, files are removed afterwards.

    Args:
        package: The package's directory.
        keep: How many versions stay, the newest.
        anchors: How many older versions with a base of their own stay, too, the newest of them; by
            default all. One that a newer version needs stays in any case.
        grace: Seconds for which files stay that are not needed any more, for those who read the old
            manifest. The next `publish` or `gc` after that removes them.
        dry_run: Change nothing.

    Raises:
        UsageError: A number is not valid.
        BusyError, ConflictError: Somebody else publishes to it.
        FormatError, DiskError: There is no package, or it cannot be read or written.
    """
    if keep < 1:
        raise UsageError(f"keep is {keep}", hint="Use 1 or more")
    if anchors is not None and anchors < 0:
        raise UsageError(f"anchors is {anchors}", hint="Use 0 or more")
    if not 0 <= grace < MOST_GRACE:
        raise UsageError(f"grace is {grace:g} seconds", hint="Use 0 or more")
    from p2u.packing.publish import collect

    return collect(os.fspath(package), keep, anchors, grace, dry_run)


def _damage(given: str | Path | Mapping[str, Any] | None) -> dict[str, int]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return quantise(given.get("tensors"))
    with disk_errors(given, "read"):
        data = Path(given).read_bytes()
    return parse_damage(data, str(given))
