"""Model directory -> package.

Scan the model, choose the base's step on a sample, encode chunk by chunk into blobs, decode what
was written and compare it with the source, publish by rename. Memory holds a few chunks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2u.allocation import Recipe, parse_damage, quantise
from p2u.errors import DiskError, UsageError
from p2u.manifest import MAX_NAME, Manifest
from p2u.manifest_parse import is_text

__all__ = ["PackProgress", "PackReport", "StateRow", "pack"]

#: Bytes; static hosts tend to allow 25 MiB per file.
BLOB_SIZE = 24 << 20
#: Steps; far below, no weight leaves its bin any more.
MOST_THRIFT = 16


@dataclass(frozen=True, slots=True)
class PackProgress:
    """How far packing has come.

    Attributes:
        phase: ``"measure"``, ``"encode"``, ``"verify"`` or ``"publish"``.
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
        bytes: What there is to fetch to come here from nothing.
        fraction: ``bytes`` as a fraction of the original's bytes.
        bits: Bits per weight of the progressive tensors.
        snr_db: Signal-to-noise ratio of the progressive tensors; None if exact.
    """

    label: str
    bytes: int
    fraction: float
    bits: float
    snr_db: float | None


@dataclass(frozen=True, slots=True)
class PackReport:
    """What was packed.

    Attributes:
        manifest: The package's manifest, as written.
        source_bytes: Size of all files of the model.
        states: From base to exact.
        offsets: How coarse each tensor with levels is in the base: its step is
            ``2 ** (offset / 64)`` times the root mean square of a row, about.
    """

    manifest: Manifest
    source_bytes: int
    states: tuple[StateRow, ...]
    offsets: dict[str, int]


def pack(
    src: str | Path,
    dst: str | Path,
    *,
    calibration: str | Path | None = None,
    thrift: float = 0.2,
    bits: float | None = None,
    budget: int | None = None,
    base_ratio: float | None = None,
    own_bits: Mapping[str, float] | None = None,
    keep: Sequence[str] = (),
    sensitivity: str | Path | Mapping[str, Any] | None = None,
    levels: Sequence[str] = ("base", "8bit", "exact"),
    jobs: int | None = None,
    blob_size: int = BLOB_SIZE,
    name: str | None = None,
    progress: Callable[[PackProgress], None] | None = None,
) -> PackReport:
    """Pack a model. The package appears when it is complete and verified, or not at all.

    Args:
        src: A model file (``.safetensors``, ``.onnx``, ``.gguf``), or a model directory.
        dst: The package's directory: new, empty, or a package, which is replaced.
        calibration: The file that `p2u.torch.calibrate` wrote: the base's errors then make good
            each other at the outputs of the layers, at a price for the exact state.
        thrift: With a calibration, the dial between the two: a weight leaves its own bin only for
            a value more than this part of a step beyond the bin's edge; 0 gives the best base.
        bits: Average bits per weight of the base, about; 1 to 6, by default 3.5.
        budget: Instead: most bytes of the base state, all that there is to fetch for it.
        base_ratio: Instead: the same as a fraction of the model's bytes.
        own_bits: Bits per weight of the tensors whose names match a glob; the last one that matches
            counts, and `bits` is the average of the other tensors.
        keep: Globs of tensors that are exact from the base on.
        sensitivity: What `p2u.torch.sensitivity` measured, or the file that it wrote.
        levels: Labels of the states, from ``base`` to ``exact``.
        jobs: Threads; all processors by default. The package does not depend on it.
        blob_size: Most bytes per blob; a chunk that is larger still gets a blob of its own.
        name: The model's name; that of ``src`` by default.
        progress: Called now and then from the calling thread; what it raises ends packing.

    Raises:
        UsageError: An argument is not valid, ``dst`` holds something else, or no base can be as
            small as the budget.
        FormatError: ``src`` is not a model, or its file names cannot be kept.
        DiskError: Something could not be read or written.
        IntegrityError: ``src`` changed meanwhile, or what was written does not decode to it.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs", hint="Use 1 or more")
    if blob_size < 1:
        raise UsageError(f"a blob size of {blob_size} bytes", hint="Use 1 or more")
    if not 0 <= thrift <= MOST_THRIFT:
        raise UsageError(f"a thrift of {thrift:g}", hint=f"Choose from 0 to {MOST_THRIFT}")
    if name is not None and not (is_text(name) and len(name) <= MAX_NAME):
        raise UsageError(f"a name must be text of at most {MAX_NAME} characters")
    from p2u.pack.run import Packer, Settings  # loads the core

    recipe = Recipe(
        None if bits is None else float(bits),
        budget,
        base_ratio,
        tuple((own_bits or {}).items()),
        tuple(keep),
        _damage(sensitivity),
    )
    settings = Settings(
        recipe,
        tuple(levels),
        jobs or _processors(),
        blob_size,
        name,
        progress,
        None if calibration is None else os.fspath(calibration),
        float(thrift),
    )
    return Packer(os.fspath(src), os.fspath(dst), settings).run()


def _damage(given: str | Path | Mapping[str, Any] | None) -> dict[str, int]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return quantise(given.get("tensors"))
    try:
        data = Path(given).read_bytes()
    except OSError as error:
        raise DiskError(f"cannot read: {error.strerror or error}", file=str(given)) from error
    return parse_damage(data, str(given))


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
